"""What an attacker without a key has workers sign: nothing that a client, a worker or a store takes for something else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from stem_kombu.control.client.reply_collector import ReplyCollector
from stem_kombu.control.client.reports import Report
from stem_kombu.control.protocol.messages import Call, Inspect, Ping, Reply, ReplyError
from stem_kombu.signing.keyring import Untrusted
from stem_kombu.signing.seal import COMMAND, REPLY, digest_of, sealed, signature_of, unsealed
from tests.servers.redis import RedisServer
from tests.signing.scene import OPS, VIEWER, WORKERS, Scene, changed, plain, resigned
from tests.signing.test_attacks_on_clients import Ghost, _answer
from tests.waiting import eventually
from tests.worker import apps

GATE = threading.Event()


@apps.app.control_command("slowly")
def _slowly(view: object) -> dict[str, bool]:
    return {"waited": GATE.wait(30)}


@pytest.fixture(scope="module")
def scene(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    redis_server.start()
    url = redis_server.new_database()
    scene = Scene(url, url, url, tmp_path_factory.mktemp("oracles"))
    yield scene
    scene.close()


@dataclass(frozen=True)
class Copy:
    """A copy of an operator's command that the worker refuses, under the operator's signature or another."""

    name: str
    of: Callable[[bytes], bytes]


COPIES = [
    Copy("a blank more", lambda c: c.replace(b":", b": ", 1)),
    Copy("a byte of the command's name", lambda c: c.replace(b'"slowly"', b'"slowlz"')),
    Copy("another part", lambda c: changed(c, part=1)),
    Copy("the signature cut off", plain),
    Copy("a key that nobody has", lambda c: resigned(c, (signature_of(c) or "").replace(":ops:", ":eve:"))),
    Copy("another algorithm", lambda c: resigned(c, (signature_of(c) or "").replace("hmac-sha256", "ed25519"))),
    Copy("a member behind the command", lambda c: plain(c)[:-1] + b',"x":1,"sig":"' + (signature_of(c) or "").encode() + b'"}'),
    Copy("sealed by a viewer", lambda c: sealed(plain(c), COMMAND, VIEWER)),
]  # fmt: skip


@pytest.mark.parametrize("copy", COPIES, ids=lambda copy: copy.name)
def test_g12_a_refusal_of_a_changed_copy_is_no_answer_to_the_command(scene: Scene, copy: Copy) -> None:
    """The worker refuses the copy, and signs that it did, before it has answered the command itself."""
    GATE.clear()
    copies: list[bytes] = []

    def inject(command: bytes) -> bytes:
        copies.append(copy.of(command))
        scene.whisper(copies[-1])
        return b"{}"

    reports: list[Report] = []
    with Ghost(scene, inject, answers=False), scene.client(timeout=30.0) as client:
        before = sum(scene.worker.view.facts().dropped["control"].values())
        asking = threading.Thread(target=lambda: reports.append(client.call("slowly")))
        asking.start()
        eventually(lambda: sum(scene.worker.view.facts().dropped["control"].values()) > before)
        scene.ping()  # what was refused before this was said is on its way
        GATE.set()
        asking.join(30)

    ((reply,),) = (report.replies for report in reports)
    assert copies
    assert (reply.worker, reply.error, reply.payload) == ("alpha", None, {"waited": True})


@pytest.mark.parametrize("copy", COPIES, ids=lambda copy: copy.name)
def test_g12_a_signed_refusal_names_the_bytes_that_were_received_and_no_signature_of_others(
    scene: Scene, copy: Copy
) -> None:
    """So a client of 0.1.0, which goes by the signature alone, takes it for nobody's answer as well."""
    command = scene.signed(Call("slowly", {}))
    body = copy.of(command)

    scene.whisper(body)

    (reply,) = scene.replies_to(body, wait=True)
    assert reply.error is not None and reply.error.code == "refused"
    assert reply.command_digest == digest_of(body) != digest_of(command)
    assert reply.answers != signature_of(command)


def test_g12_the_senders_own_mistake_is_told_to_the_sender(scene: Scene) -> None:
    """Or the binding would cost operators the reason: the refusal of the very bytes that a client sent is counted."""
    command = scene.signed(Ping(), keys=VIEWER)
    refused = Reply("r", "stem", "alpha", "b", {}, ReplyError("refused", "unknown-key: …"), 0, None, digest_of(command))
    collector = ReplyCollector("r", "stem", ["alpha"], 1, asked_at=0.0)
    collector.asked(0, signature_of(command) or "", digest_of(command))

    assert collector.hear(refused, 1.0)


@pytest.mark.parametrize(
    ("reply", "counted"),
    [
        ({"answers": "sig"}, True),
        ({"answers": "sig", "error": ReplyError("failed", "it broke")}, True),
        ({"answers": "sig", "error": ReplyError("refused", "bad-signature: …")}, False),
        ({"answers": "other"}, False),
        ({"answers": "sig", "command_digest": "another"}, False),
        ({"answers": None, "command_digest": "digest", "error": ReplyError("refused", "unknown-key: …")}, True),
        ({"answers": None, "command_digest": None}, False),
    ],
)
def test_g12_answers_of_0_1_0_are_counted_but_not_their_refusals(reply: dict[str, object], counted: bool) -> None:
    collector = ReplyCollector("r", "stem", ["alpha"], 1, asked_at=0.0)
    collector.asked(0, "sig", "digest")

    assert collector.hear(replace(Reply("r", "stem", "alpha", "b", {}), **reply), 1.0) is counted  # type: ignore[arg-type]


def test_g12_what_a_worker_signs_as_an_answer_is_no_command_beat_proof_or_task(scene: Scene) -> None:
    """An answer may hold whatever a viewer asked for, and so any text: its domain keeps it an answer."""
    body = scene.signed(Inspect(), keys=VIEWER)
    scene.whisper(body)
    scene.ping()
    with Ghost(scene, lambda c: _answer(c, WORKERS)) as ghost, scene.client() as client:
        # A client that has its answers already does not wait for the one of the ghost.
        answer = eventually(lambda: client.ping() and ghost.last, 30)

    assert unsealed(answer, REPLY, WORKERS).id == "fleet"
    for domain in (COMMAND, b"stem-heartbeat/1", b"stem-revocation/1", b"stem-task/1", b"stem-task/2"):
        with pytest.raises(Untrusted):
            unsealed(answer, domain, WORKERS)
    assert OPS.active.id == "ops"


def test_g12_the_domains_of_all_that_is_signed_differ_and_none_begins_another() -> None:
    from stem_kombu.backends.verified_roster import HEARTBEAT
    from stem_kombu.messages.signatures import TASK, TASK_V1
    from stem_kombu.signing.proofs import REVOCATION

    domains = [COMMAND, REPLY, HEARTBEAT, REVOCATION, TASK, TASK_V1, b"stem-fingerprint"]
    assert not [(one, other) for one in domains for other in domains if one is not other and other.startswith(one)]
    assert all(b"\0" not in domain for domain in domains)
    # What a signature covers begins with the domain and a NUL, which no domain holds: no other domain gives those bytes.
    signature = OPS.sign(COMMAND, b"x")
    for domain, message in ((COMMAND + b"\0", b"x"), (b"stem-command", b"/1x"), (REPLY, b"x"), (b"", COMMAND + b"x")):
        with pytest.raises(Untrusted):
            OPS.verify(domain, message, signature)
    assert json.loads(plain(sealed(b'{"a":1}', COMMAND, OPS))) == {"a": 1}
