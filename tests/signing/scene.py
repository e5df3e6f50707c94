"""A real worker with keys, on real servers, and somebody at its broker and its store who has none, or the wrong ones."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from stem_kombu.app import Stem
from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.protocol.codec import encode_command
from stem_kombu.control.protocol.messages import Command, Order, Ping, Reply, Revoke
from stem_kombu.outcome import TaskState
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.settings import Settings, SigningSettings
from stem_kombu.signing.keyring import Keyring
from stem_kombu.signing.proofs import signed_drafts
from stem_kombu.testing.gates import Gate
from stem_kombu.worker.worker import Worker
from tests.control.wire import Wire, a_command
from tests.signing.keys import SCOPES, hmac_keys, pairs, public_keys, ring, shared
from tests.waiting import eventually
from tests.worker import apps

#: What the fleet believes: three operators' secrets, its own, and an operator's public key.
FLEET_SCOPES = f"{SCOPES};ed:read,operate"
FLEET = SigningSettings(
    keys=hmac_keys("fleet", "ops", "root", "viewer", "nobody"),
    active_key="fleet",
    public_keys=public_keys("ed"),
    key_scopes=FLEET_SCOPES,
)


def operator(name: str, **more: Any) -> SigningSettings:
    """The settings of an operator, who can also verify what the fleet's workers, and viewers, sign."""
    others = [other for other in ("fleet", "viewer") if other != name]
    return shared(name, *others, key_scopes=FLEET_SCOPES, **more)


OPS, ROOT, VIEWER, NOBODY = (ring(operator(name)) for name in ("ops", "root", "viewer", "nobody"))
WORKERS = ring(FLEET)
#: A key of the other algorithm, a key that nobody knows, and one that only bears the name of an operator's.
ED, EVE = ring(pairs("ed", key_scopes=FLEET_SCOPES)), ring(shared("eve"))
FALSE_OPS = ring(SigningSettings(keys=f"ops:{hmac_keys('eve').partition(':')[2]}", active_key="ops"))


class Scene:
    """Worker ``alpha`` runs the task ``victim``, which nobody may stop; ``close`` ends it."""

    def __init__(self, broker: str, backend: str, store: str, folder: Path, signing: SigningSettings = FLEET) -> None:
        self.settings = Settings.from_env(
            {}, broker=broker, backend=backend, revoke_store=store, sync_interval=60.0, heartbeat_interval=0.5,
            signing=signing,
        )  # fmt: skip
        self.folder = folder
        apps.app.configure(self.settings)
        self.worker = Worker(apps.app, name="alpha", concurrency=1, inline_slots=4).start()
        self.store = apps.app.open_revoke_store()
        self.wire = Wire(broker)
        self.wire.listen()  # from now on a reply that comes while something is published is kept
        self.gate = Gate(folder / "victim")
        sender = self.client_settings(operator("ops", tasks=signing.tasks))
        self.sender = Stem("sender", settings=sender)
        self.sender.send_task("inline.gated", [self.gate.path], task_id="victim")
        self.gate.wait_reached()
        eventually(lambda: (record := self.sender.result("victim").record) and record.state is TaskState.RUNNING)

    def close(self) -> None:
        self.wire.__exit__()
        self.sender.close()
        self.worker.stop(0.0)
        self.store.close()
        apps.app.close()

    # -- looking --------------------------------------------------------------------------------------------------------

    def dropped(self, door: str, reason: str) -> int:
        return self.worker.view.facts().dropped[door].get(reason, 0)

    def state(self) -> object:
        """All that an attacker might want to change."""
        return (
            self.worker.cache.newest(100),
            [task.id for task in self.worker.view.in_flight()],
            self.worker.totals.snapshot(),
            self.gate.reached("finally"),
            self.worker.state,
        )

    # -- speaking -------------------------------------------------------------------------------------------------------

    def order(self, *task_ids: str, keys: Keyring | None = OPS, terminate: bool = True, **changes: Any) -> Revoke:
        """An order to revoke, with records as a store would hold them, proven by those keys."""
        return Revoke(tuple(self.record(task_id, keys, terminate, **changes) for task_id in task_ids or ("victim",)))

    def record(self, task_id: str, keys: Keyring | None, terminate: bool = True, **changes: Any) -> Revocation:
        now = SYSTEM.utcnow()
        draft = self.draft(task_id, keys, terminate=terminate)
        record = Revocation("stem", task_id, 2**50, now, terminate, "forged", "eve", None, draft.proofs)
        return replace(record, **changes)

    def draft(self, task_id: str, keys: Keyring | None, *, namespace: str = "stem", **fields: Any) -> RevocationDraft:
        draft = RevocationDraft(task_id, **{"terminate": True, **fields})
        if keys is None:
            return draft
        # Whoever has a key signs whatever he likes: permissions are checked by those who read it.
        able = Keyring([replace(keys.active, scopes=ROOT.active.scopes)], keys.active.id)
        return signed_drafts([draft], able, namespace=namespace, now=SYSTEM.utcnow())[0]

    def command(self, order: Order | None = None, **changes: Any) -> Command:
        reply_to = changes.pop("reply_to", self.wire.reply_to)
        return a_command(order or self.order(), reply_to, now=self.now(), **changes)

    def now(self) -> datetime:
        """The roster's time."""
        return SYSTEM.utcnow() + timedelta(seconds=self.worker.agent.heartbeats.roster_now() - SYSTEM.now())

    def signed(self, order: Order | None = None, *, keys: Keyring = OPS, **changes: Any) -> bytes:
        return encode_command(self.command(order, **changes), keys)

    def whisper(self, body: bytes) -> None:
        self.wire.put("alpha", body)

    def ping(self) -> Reply:
        """An honest ping by an operator: the worker has met all that was in its inbox before."""
        command = self.command(Ping())
        self.whisper(encode_command(command, OPS))
        return self.wire.reply(command)

    def replies_to(self, body: bytes, *, wait: bool = False) -> list[Reply]:
        """What the sender of these bytes was told."""
        try:
            request = str(json.loads(body).get("id"))
        except ValueError:
            return []
        if wait:
            self.wire.until(lambda: any(reply.request_id == request for reply in self.wire.replies))
        return [reply for reply in self.wire.replies if reply.request_id == request]

    # -- asking ---------------------------------------------------------------------------------------------------------

    def client_settings(self, signing: SigningSettings) -> Settings:
        return replace(self.settings, signing=signing)

    def client(self, signing: SigningSettings | None = None, timeout: float = 5.0) -> ControlClient:
        settings = self.client_settings(operator("ops") if signing is None else signing)
        settings = replace(settings, control_timeout=timeout)
        return ControlClient(settings)


def changed(body: bytes, **fields: Any) -> bytes:
    """The message with these members instead, and the signature that it had."""
    held: dict[str, Any] = json.loads(body)
    return json.dumps({**held, **fields, "sig": held["sig"]}, separators=(",", ":")).encode()


def resigned(body: bytes, signature: str) -> bytes:
    """The message under another signature."""
    return body[: body.rindex(b',"sig":"')] + b',"sig":"' + signature.encode() + b'"}'


def plain(body: bytes) -> bytes:
    """What of the message was signed, as an object."""
    return body[: body.rindex(b',"sig":"')] + b"}"
