"""What somebody at the broker tries on a worker with keys: nothing of it is obeyed, all of it is counted, nothing changes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from stem_kombu.control.protocol.codec import encode_command, encode_reply
from stem_kombu.control.protocol.messages import Call, Inspect, Ping, Reply, Revoke, Stats
from stem_kombu.settings import SigningSettings
from stem_kombu.signing.keyring import Untrusted
from stem_kombu.signing.seal import COMMAND, sealed, signature_of
from stem_kombu_cli.exit_codes import REFUSED, of_report
from tests.signing.keys import public_keys, shared
from tests.signing.scene import (
    ED,
    EVE,
    FALSE_OPS,
    NOBODY,
    OPS,
    ROOT,
    VIEWER,
    WORKERS,
    Scene,
    changed,
    operator,
    plain,
    resigned,
)
from tests.waiting import eventually
from tests.worker import apps


@pytest.fixture(scope="module", params=["redis", "amqp"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("attacks")
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        server.start()
        broker = backend = store = server.new_database()
    else:
        server = request.getfixturevalue("rabbitmq_server")
        server.start()
        broker, backend, store = server.new_vhost(), f"sqlite://{folder}/state.db", f"file://{folder}/revokes"
    scene = Scene(broker, backend, store, folder)
    yield scene
    scene.close()


@dataclass(frozen=True)
class Attack:
    """A message, the reason under which it must be counted, at which door, and whether its sender can be told."""

    name: str
    reason: str
    message: Callable[[Scene], bytes]
    door: str = "control"
    told: bool = True


def _hmac(scene: Scene, label: str, secret: bytes) -> bytes:
    """A command under ``label``, signed with a secret that somebody believes to do."""
    body = plain(scene.signed())
    algorithm, key = label.split(":")
    signed = COMMAND + f"\0{algorithm}:{key}\0".encode() + body[:-1]
    return resigned(body[:-1] + b',"sig":"x"}', f"{label}:{_b64(hmac.digest(secret, signed, 'sha256'))}")


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _public() -> bytes:
    return base64.b64decode(public_keys("ed").partition(":")[2])


def _respelled(body: bytes) -> bytes:
    """The same signature in other characters: the last two bits of 32 bytes in base64 mean nothing."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    signature = (signature_of(body) or "").encode()
    place = alphabet.index(signature[-2:-1])
    return resigned(body, (signature[:-2] + alphabet[place + 1 : place + 2] + b"=").decode())


def _captured_reply(scene: Scene) -> bytes:
    return encode_reply(Reply("7", "stem", "alpha", "boot", {}, None, 0, "x"), WORKERS)


FORGED = [
    Attack("an unsigned revoke", "unsigned", lambda s: encode_command(s.command())),
    Attack("an unsigned ping", "unsigned", lambda s: encode_command(s.command(Ping()))),
    Attack("an unsigned inspect", "unsigned", lambda s: encode_command(s.command(Inspect(True)))),
    Attack("an unsigned stats", "unsigned", lambda s: encode_command(s.command(Stats()))),
    Attack(
        "an unsigned command of the application",
        "unsigned",
        lambda s: encode_command(s.command(Call("double", {"number": 1}))),
    ),
    Attack("a revoke by a key that nobody knows", "unknown-key", lambda s: s.signed(keys=EVE)),
    Attack("a revoke by another key of a known name", "bad-signature", lambda s: s.signed(keys=FALSE_OPS)),
    Attack("an HMAC without a key", "bad-signature", lambda s: _hmac(s, "hmac-sha256:ops", b"")),
    Attack(
        "a bare hash",
        "bad-signature",
        lambda s: resigned(s.signed(), f"hmac-sha256:ops:{_b64(hashlib.sha256(plain(s.signed())).digest())}"),
    ),
    Attack(
        "a signature of zeros", "bad-signature", lambda s: resigned(s.signed(), f"hmac-sha256:ops:{_b64(bytes(32))}")
    ),
    Attack(
        "an ed25519 signature of zeros",
        "bad-signature",
        lambda s: resigned(s.signed(), f"ed25519:ed:{_b64(bytes(64))}"),
    ),
]
STRIPPED = [
    Attack("the signature cut off", "unsigned", lambda s: plain(s.signed())),
    Attack("the signature emptied", "bad-signature", lambda s: resigned(s.signed(), "")),
    Attack(
        "the signature halved", "bad-signature", lambda s: resigned(s.signed(), (signature_of(s.signed()) or "")[:-20])
    ),
    Attack("the signature's key cut out", "bad-signature", lambda s: resigned(s.signed(), "hmac-sha256::AAAA")),
    Attack("the end of the message cut off", "unsigned", lambda s: s.signed()[:-5], told=False),
    Attack(
        "the middle of the message cut out", "bad-signature", lambda s: s.signed()[:60] + s.signed()[90:], told=False
    ),
    Attack(
        "a message of nothing but a signature",
        "bad-signature",
        lambda s: b'{"v":1,"sig":"' + (signature_of(s.signed()) or "").encode() + b'"}',
        told=False,
    ),
    Attack(
        "the signature in another place",
        "unsigned",
        lambda s: json.dumps({"sig": "", **json.loads(s.signed())} | {"z": 1}, separators=(",", ":")).encode(),
    ),
    Attack("a null for a signature", "unsigned", lambda s: plain(s.signed())[:-1] + b',"sig":null}'),
]
SWAPPED = [
    Attack(
        "the signature of another command",
        "bad-signature",
        lambda s: resigned(s.signed(), signature_of(s.signed(Ping())) or ""),
    ),
    Attack("another task", "bad-signature", lambda s: s.signed(s.order("harmle")).replace(b"harmle", b"victim")),
    Attack(
        "another command",
        "bad-signature",
        lambda s: changed(s.signed(Ping()), command="revoke", args=json.loads(s.signed())["args"]),
    ),
    Attack(
        "other arguments",
        "bad-signature",
        lambda s: changed(s.signed(Call("double", {"number": 1})), args={"number": 2}),
    ),
    Attack("other targets", "bad-signature", lambda s: changed(s.signed(targets=("bravo",)), targets=["alpha"])),
    Attack("everyone instead of one", "bad-signature", lambda s: changed(s.signed(targets=("alpha",)), targets=None)),
    Attack("a later expiry", "bad-signature", lambda s: changed(s.signed(), expires_at="2099-01-01T00:00:00Z")),
    Attack("another time of issue", "bad-signature", lambda s: changed(s.signed(), issued_at=s.now().isoformat())),
    Attack(
        "another inbox for the replies",
        "bad-signature",
        lambda s: changed(s.signed(), reply_to=s.wire.reply_to[:-1] + "z"),
        told=False,
    ),
    Attack("another request id", "bad-signature", lambda s: changed(s.signed(), id="0123456789abcdef")),
    Attack("another part", "bad-signature", lambda s: changed(s.signed(parts=2), part=1)),
    Attack("another sender", "bad-signature", lambda s: changed(s.signed(), sender="root@bastion")),
    Attack("another namespace", "bad-signature", lambda s: changed(s.signed(namespace="other"), ns="stem")),
    Attack("another version", "bad-signature", lambda s: changed(s.signed(), v=2)),
    Attack("a member behind the signature", "bad-signature", lambda s: s.signed()[:-1] + b',"command":"revoke"}'),
    Attack(
        "a member before the signature",
        "bad-signature",
        lambda s: plain(s.signed())[:-1] + b',"more":1,"sig":"' + (signature_of(s.signed()) or "").encode() + b'"}',
    ),
    Attack("a blank more", "bad-signature", lambda s: s.signed().replace(b'"v":1', b'"v": 1')),
    Attack("a line end behind it", "unsigned", lambda s: s.signed() + b"\n"),
    Attack("the same signature in other characters", "bad-signature", lambda s: _respelled(s.signed())),
]
DOWNGRADED = [
    Attack("no algorithm", "wrong-algorithm", lambda s: resigned(s.signed(), "none:ops:AAAA")),
    Attack("a weaker algorithm", "wrong-algorithm", lambda s: resigned(s.signed(), "hmac-md5:ops:AAAA")),
    Attack(
        "an algorithm in capitals",
        "bad-signature",
        lambda s: resigned(s.signed(), (signature_of(s.signed()) or "").replace("hmac", "HMAC")),
    ),
    Attack(
        "an HMAC key's name for ed25519",
        "wrong-algorithm",
        lambda s: resigned(s.signed(), (signature_of(s.signed()) or "").replace("hmac-sha256", "ed25519")),
    ),
    Attack("a public key as an HMAC secret", "wrong-algorithm", lambda s: _hmac(s, "hmac-sha256:ed", _public())),
    Attack("an HMAC with a public key, called ed25519", "bad-signature", lambda s: _hmac(s, "ed25519:ed", _public())),
    Attack(
        "one operator's signature under another's name",
        "bad-signature",
        lambda s: resigned(s.signed(keys=VIEWER), (signature_of(s.signed(keys=VIEWER)) or "").replace("viewer", "ops")),
    ),
    Attack(
        "a key's name with a line end",
        "bad-signature",
        lambda s: resigned(s.signed(), (signature_of(s.signed()) or "").replace("ops", "ops\\n")),
    ),
    Attack("a reply for a command", "bad-signature", _captured_reply, told=False),
    Attack("a command sealed as a reply", "bad-signature", lambda s: sealed(plain(s.signed()), b"stem-reply/1", OPS)),
]
OUT_OF_TIME = [
    Attack("a command that expired", "stale", lambda s: s.signed(expires_at=s.now() - timedelta(seconds=5))),
    Attack(
        "a command from before this worker's start",
        "stale",
        lambda s: s.signed(issued_at=s.worker.identity.started_at - timedelta(seconds=1)),
    ),
    Attack("a command from the future", "stale", lambda s: s.signed(issued_at=s.now() + timedelta(seconds=20))),
    Attack(
        "a command that lives for years",
        "bad-message",
        lambda s: s.signed(expires_at=s.now() + timedelta(days=800)),
        told=False,
    ),
]
REDIRECTED = [
    Attack("a command for another worker", "misaddressed", lambda s: s.signed(targets=("bravo",)), told=False),
    Attack(
        "a command for other workers by a glob",
        "misaddressed",
        lambda s: s.signed(targets=("b*", "render-?")),
        told=False,
    ),
    Attack(
        "a command of another namespace",
        "misaddressed",
        lambda s: s.signed(
            s.order(namespace="other"), namespace="other", reply_to=s.wire.reply_to.replace("-stem-", "-other-")
        ),
        told=False,
    ),
]
NOT_PERMITTED = [
    Attack("a viewer's revoke", "not-permitted", lambda s: s.signed(keys=VIEWER)),
    Attack(
        "a viewer's command of the application",
        "not-permitted",
        lambda s: s.signed(Call("double", {"number": 1}), keys=VIEWER),
    ),
    Attack("a ping by a key without scopes", "not-permitted", lambda s: s.signed(Ping(), keys=NOBODY)),
    Attack("a revoke by a worker's key", "not-permitted", lambda s: s.signed(keys=WORKERS)),
    Attack("a ping by a worker's key", "not-permitted", lambda s: s.signed(Ping(), keys=WORKERS)),
]
ATTACKS = [*FORGED, *STRIPPED, *SWAPPED, *DOWNGRADED, *OUT_OF_TIME, *REDIRECTED, *NOT_PERMITTED]
#: What somebody signs as a whole who may, without having read what the store had put into it.
LAUNDERED = [
    Attack("a record that nobody signed", "unsigned", lambda s: s.signed(s.order(keys=None))),
    Attack("a record that a viewer signed", "not-permitted", lambda s: s.signed(s.order(keys=VIEWER))),
    Attack("a record that a stranger signed", "unknown-key", lambda s: s.signed(s.order(keys=EVE))),
    Attack(
        "a record with the proof of another task",
        "bad-signature",
        lambda s: s.signed(s.order(proofs=s.draft("other", OPS).proofs)),
    ),
    Attack(
        "a record with the proof of another namespace",
        "bad-signature",
        lambda s: s.signed(s.order(proofs=s.draft("victim", OPS, namespace="other").proofs)),
    ),
    Attack(
        "a record with the proof of a command",
        "bad-signature",
        lambda s: s.signed(
            s.order(
                proofs=(
                    json.dumps({"t": 1, "e": None, "x": True, "r": None, "q": None, "s": signature_of(s.signed())}),
                )
            )
        ),
    ),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_g12_g14_it_is_refused_counted_and_told(scene: Scene, attack: Attack) -> None:
    before, state = scene.dropped(attack.door, attack.reason), scene.state()
    body = attack.message(scene)

    scene.whisper(body)
    scene.ping()

    assert scene.dropped(attack.door, attack.reason) == before + 1
    assert scene.state() == state
    if attack.told:
        (reply,) = scene.replies_to(body, wait=True)
        assert reply.error is not None
        assert reply.error.code == ("stale" if attack.reason == "stale" else "refused")
    else:
        assert scene.replies_to(body) == []


@pytest.mark.parametrize(
    "attack", [FORGED[0], STRIPPED[0], SWAPPED[0], NOT_PERMITTED[0]], ids=lambda attack: attack.name
)
def test_g12_what_is_broadcast_is_treated_alike(scene: Scene, attack: Attack) -> None:
    before, state = scene.dropped(attack.door, attack.reason), scene.state()

    scene.wire.shout(attack.message(scene))

    eventually(lambda: scene.dropped(attack.door, attack.reason) == before + 1)
    scene.ping()
    assert scene.state() == state


@pytest.mark.parametrize("attack", LAUNDERED, ids=lambda attack: attack.name)
def test_g12_an_operators_command_does_not_vouch_for_records_that_he_did_not_sign(scene: Scene, attack: Attack) -> None:
    before, state = scene.dropped("revocations", attack.reason), scene.state()
    body = attack.message(scene)

    scene.whisper(body)

    (reply,) = scene.replies_to(body, wait=True)
    assert (reply.error, reply.payload["refused"], reply.payload["applied"]) == (None, ["victim"], [])
    assert scene.dropped("revocations", attack.reason) == before + 1
    assert scene.state() == state


def test_g12_terminate_that_somebody_added_in_the_store_stops_nothing(scene: Scene) -> None:
    """The task is revoked, as the operator signed it; that it be stopped was not his wish."""
    (record,) = scene.order("other-task", terminate=False).revocations
    order = Revoke((replace(record, terminate=True, reason="added", requested_by="eve"),))
    command = scene.command(order)

    scene.whisper(encode_command(command, OPS))

    assert scene.wire.reply(command).payload["applied"] == ["other-task"]
    held = scene.worker.cache.get("other-task")
    assert held is not None
    assert (held.terminate, held.reason, held.requested_by) == (False, None, None)


def test_g14_a_captured_command_is_obeyed_once_however_often_it_is_sent(scene: Scene) -> None:
    body = scene.signed(Call("count", {}))
    before, calls = scene.dropped("control", "replayed"), len(CALLS)

    for _ in range(3):
        scene.whisper(body)
        scene.wire.shout(body)

    eventually(lambda: scene.dropped("control", "replayed") == before + 5)
    assert len(CALLS) == calls + 1


def test_g14_a_number_that_another_key_used_up_is_still_free(scene: Scene) -> None:
    """Who may read can't keep an operator's command from being obeyed by sending another under its number."""
    command = scene.command(Call("count", {}))
    calls = len(CALLS)
    scene.whisper(encode_command(replace(command, order=Ping()), VIEWER))

    scene.whisper(encode_command(command, OPS))
    scene.ping()

    eventually(lambda: len(CALLS) == calls + 1)


def test_honest_commands_of_both_algorithms_are_obeyed(scene: Scene) -> None:
    for keys in (OPS, ROOT, ED):
        command = scene.command(Call("double", {"number": 21}))
        scene.whisper(encode_command(command, keys))
        assert scene.wire.reply(command).payload == {"doubled": 42}


def test_arguments_are_shown_to_who_may_see_them(scene: Scene) -> None:
    def args(name: str) -> str:
        with scene.client(operator(name)) as client:
            (reply,) = client.inspect().replies
            return str(reply.payload["in_flight"][0]["args"])

    assert args("viewer") == args("ops") == "***"
    assert args("root") != "***"


def test_a_viewer_is_refused_before_anything_is_stored_or_said(scene: Scene) -> None:
    revision, state = scene.store.revision("stem"), scene.state()
    with scene.client(operator("viewer")) as client:
        assert client.ping().complete
        with pytest.raises(Untrusted, match="operate") as refused:
            client.revoke(["victim"], terminate=True)
        with pytest.raises(Untrusted):
            client.call("double", {"number": 1})

    assert refused.value.code == "refused"
    assert scene.store.revision("stem") == revision
    assert scene.state() == state


def test_g12_a_fleet_that_nobody_answers_for_is_told_apart_from_a_silent_one(scene: Scene) -> None:
    """A client with other keys, and one without any."""
    with scene.client(shared("eve"), timeout=0.6) as stranger:
        report = stranger.ping(workers=["alpha"])
    assert (report.replies, report.silent) == ((), ("alpha",))
    assert of_report(report) == REFUSED
    assert report.untrusted["unknown-key"] >= 1

    with scene.client(SigningSettings()) as unsigned:
        report = unsigned.ping()
    assert [reply.error.code for reply in report.replies if reply.error] == ["refused"]
    assert of_report(report) == REFUSED


CALLS: list[int] = []


@apps.app.control_command("count")
def _count(view: object) -> dict[str, int]:
    CALLS.append(1)
    return {"count": len(CALLS)}


def test_the_victim_runs_to_its_end(scene: Scene, tmp_path: Path) -> None:
    """Last in this file: after all that was tried, an operator still stops it."""
    with scene.client() as client:
        (reply,) = client.revoke(["victim"], terminate=True, reason="enough").replies

    assert reply.payload["terminated"] == ["victim"]
    eventually(lambda: scene.gate.reached("finally") is not None)
