"""What somebody tries on operators: answers and heartbeats that no worker of the fleet signed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.registry import open_backend
from stem_kombu.backends.verified_roster import signed_beat
from stem_kombu.clock import SYSTEM
from stem_kombu.concurrency.wakeup import WakePipe
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.reports import Report
from stem_kombu.control.protocol.codec import encode_reply
from stem_kombu.control.protocol.messages import Call, Reply, ReplyError
from stem_kombu.control.server.reply_publisher import ReplyPublisher
from stem_kombu.control.server.subscription import ControlSubscription
from stem_kombu.signing.keyring import Keyring
from stem_kombu.signing.seal import digest_of, sealed, signature_of
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.registry import open_transport
from stem_kombu.worker.worker import Worker
from tests.servers.redis import RedisServer
from tests.signing.keys import ring, shared
from tests.signing.scene import EVE, FLEET, VIEWER, WORKERS, Scene, operator, plain
from tests.signing.test_attacks_on_workers import CALLS
from tests.waiting import eventually
from tests.worker import apps

FALSE_FLEET = ring(
    replace(FLEET, keys=f"fleet:{shared('eve').keys.partition(':')[2]}", public_keys=None, key_scopes=None)
)  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def scene(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    redis_server.start()
    url = redis_server.new_database()
    scene = Scene(url, url, url, tmp_path_factory.mktemp("clients"))
    yield scene
    scene.close()


class Ghost:
    """Hears what is broadcast and answers it with whatever ``forge`` makes of it, and then as an honest worker would;
    with ``answers=False`` it only hears."""

    def __init__(self, scene: Scene, forge: Callable[[bytes], bytes], *, answers: bool = True) -> None:
        self._scene, self._forge, self._answers = scene, forge, answers
        #: The last honest answer.
        self.last = b""
        self._gone, self._hears = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._pipe = WakePipe()

    def __enter__(self) -> Ghost:
        self._thread.start()
        assert self._hears.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        self._pipe.wake()
        self._thread.join()

    def _run(self) -> None:
        self._pipe.open()
        ear = ControlSubscription(
            open_transport(open_connection(self._scene.settings.broker.value)).control(clock=SYSTEM), "stem", "phantom",
            receive=self._hear, malformed=lambda *_: None, hearing_check=60.0, pipe=self._pipe, clock=SYSTEM,
        )  # fmt: skip
        ear.open()
        while not self._gone.is_set():
            if ear.listen():
                self._hears.set()
        ear.close()
        self._pipe.close()

    def _hear(self, body: bytes, say: Callable[[str, bytes], None], /, *, private: bool) -> None:
        forged, self.last = self._forge(body), _answer(body, WORKERS, payload={"forged": False})
        for answer in (forged, self.last) if self._answers else ():
            say(json.loads(body)["reply_to"], answer)


def _answer(command: bytes, keys: Keyring | None, **changes: Any) -> bytes:
    held = json.loads(command)
    reply = Reply(
        held["id"], held["ns"], "phantom", "boot", {"forged": True}, None, held["part"],
        signature_of(command), digest_of(command),
    )  # fmt: skip
    return encode_reply(replace(reply, **changes), keys)


@dataclass(frozen=True)
class Forgery:
    name: str
    #: Counted under this reason, or ``None`` where it is told apart only from what was asked.
    reason: str | None
    reply: Callable[[bytes], bytes]


FORGERIES = [
    Forgery("an unsigned answer", "unsigned", lambda c: _answer(c, None)),
    Forgery("an answer signed by a stranger", "unknown-key", lambda c: _answer(c, EVE)),
    Forgery("an answer signed by a viewer", "not-permitted", lambda c: _answer(c, VIEWER_WHO_KNOWS_ALL)),
    Forgery("an answer by another key of the fleet's name", "bad-signature", lambda c: _answer(c, FALSE_FLEET)),
    Forgery("an answer with its signature cut off", "unsigned", lambda c: plain(_answer(c, WORKERS))),
    Forgery("an answer that was changed", "bad-signature", lambda c: _answer(c, WORKERS).replace(b"true", b"null")),
    Forgery(
        "an answer sealed as a command",
        "bad-signature",
        lambda c: sealed(plain(_answer(c, WORKERS)), b"stem-command/1", WORKERS),
    ),
    Forgery(
        "a command for an answer", "not-permitted", lambda c: sealed(plain(c), b"stem-reply/1", VIEWER_WHO_KNOWS_ALL)
    ),
    Forgery("an answer to another request", None, lambda c: _answer(c, WORKERS, request_id="0123456789abcdef")),
    Forgery(
        "an answer to another command under that number",
        None,
        lambda c: _answer(c, WORKERS, answers="hmac-sha256:ops:AAAA", command_digest=None),
    ),
    Forgery("an answer to no command", None, lambda c: _answer(c, WORKERS, answers=None, command_digest=None)),
    Forgery("an answer to other bytes", None, lambda c: _answer(c, WORKERS, command_digest=digest_of(c + b" "))),
    Forgery(
        "a refusal that names the signature alone, as 0.1.0 signs it for a changed copy",
        None,
        lambda c: _answer(c, WORKERS, command_digest=None, error=ReplyError("refused", "bad-signature: …")),
    ),
    Forgery("an answer to another part", None, lambda c: _answer(c, WORKERS, part=1)),
    Forgery("an answer of another namespace", None, lambda c: _answer(c, WORKERS, namespace="other")),
    Forgery(
        "an error that no worker has", "unsigned", lambda c: _answer(c, None, error=ReplyError("failed", "all is lost"))
    ),
]
VIEWER_WHO_KNOWS_ALL = Keyring([*WORKERS.keys.values()], "viewer")


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.name)
def test_g12_a_forged_answer_is_counted_and_nobodys(scene: Scene, forgery: Forgery) -> None:
    with Ghost(scene, forgery.reply), scene.client(timeout=20.0) as client:
        report = client.ping(workers=["phantom"])

    (reply,) = report.replies
    assert (reply.error, reply.payload) == (None, {"forged": False})
    assert report.untrusted == ({} if forgery.reason is None else {forgery.reason: 1})
    assert bool(report.notes) == (forgery.reason is not None)


def test_an_answer_of_a_signed_fleet_is_the_first_that_is_honest(scene: Scene) -> None:
    """Or the tests above would prove nothing: what stands in the forgeries' place is accepted when the fleet signed it."""
    with Ghost(scene, lambda c: _answer(c, WORKERS)), scene.client(timeout=20.0) as client:
        (reply,) = client.ping(workers=["phantom"]).replies

    assert reply.payload == {"forged": True}


# -- the roster ---------------------------------------------------------------------------------------------------------


def _beat(scene: Scene, worker: str = "ghost", **changes: Any) -> Heartbeat:
    return replace(Heartbeat("stem", worker, "boot", "stem-stem-ctl-i-x", 60.0, "host", 1, "0.1.0"), **changes)


def _signed(scene: Scene, keys: Keyring, *, ago: float = 0.0, **changes: Any) -> Heartbeat:
    return signed_beat(_beat(scene, **changes), keys, scene.now() - timedelta(seconds=ago))


def _alphas(scene: Scene) -> Heartbeat:
    (beat,) = (beat for beat in scene.worker.resources.roster.view("stem").heartbeats if beat.worker == "alpha")
    return beat


@dataclass(frozen=True)
class Poison:
    name: str
    reason: str
    beat: Callable[[Scene], Heartbeat]


POISONS = [
    Poison("an unsigned worker", "unsigned", _beat),
    Poison("a worker that a stranger signed", "unknown-key", lambda s: _signed(s, EVE)),
    Poison("a worker that a viewer signed", "not-permitted", lambda s: _signed(s, VIEWER)),
    Poison("a worker by another key of the fleet's name", "bad-signature", lambda s: _signed(s, FALSE_FLEET)),
    Poison("a live worker's beat under another name", "bad-signature", lambda s: replace(_alphas(s), worker="ghost")),
    Poison("a beat with another inbox", "bad-signature", lambda s: replace(_signed(s, WORKERS), inbox="stem-stem-ctl-i-evil")),
    Poison("a beat with a longer interval", "bad-signature", lambda s: replace(_signed(s, WORKERS, ago=600.0), interval=9e6)),
    Poison("a beat with its time renewed", "bad-signature", lambda s: replace(_signed(s, WORKERS, ago=600.0), issued_at=s.now())),
    Poison("a beat from the future", "stale", lambda s: _signed(s, WORKERS, ago=-600.0)),
]  # fmt: skip


@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.name)
def test_g12_a_roster_that_somebody_wrote_to_deceives_nobody(scene: Scene, poison: Poison) -> None:
    backend = open_backend(scene.settings.backend.value)  # type: ignore[union-attr]
    backend.beat(poison.beat(scene))
    try:
        with scene.client() as client:
            report, status = client.ping(), client.status()
    finally:
        backend.leave("stem", "ghost", "boot")
        backend.leave("stem", "ghost", scene.worker.identity.boot)
        backend.close()

    assert (report.expected, report.silent, report.complete) == (("alpha",), (), True)
    assert [worker.heartbeat.worker for worker in status.workers] == ["alpha"]
    assert status.untrusted[poison.reason] >= 2


def test_g12_a_dead_workers_beat_that_somebody_puts_back_looks_as_old_as_it_is(scene: Scene) -> None:
    backend = open_backend(scene.settings.backend.value)  # type: ignore[union-attr]
    backend.beat(_signed(scene, WORKERS, ago=600.0))
    try:
        with scene.client() as client:
            report, status = client.ping(), client.status(workers=["ghost"])
    finally:
        backend.leave("stem", "ghost", "boot")
        backend.close()

    assert report.expected == ("alpha",)
    assert status.workers[0].liveness.value == "dead"
    assert status.workers[0].age >= 600


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "an old one of its own"])
def test_g12_nobody_keeps_a_worker_from_its_name_by_a_beat(scene: Scene, signed: bool) -> None:
    squatter = _beat(scene, "bravo") if not signed else _signed(scene, WORKERS, worker="bravo", ago=600.0)
    scene.worker.resources.roster.beat(squatter)

    bravo = Worker(apps.app, name="bravo", concurrency=1, inline_slots=1)
    try:
        bravo.start()
        with scene.client() as client:
            assert client.ping().expected == ("alpha", "bravo")
    finally:
        bravo.stop(0.0)


def test_g12_heartbeats_on_the_stream_are_the_fleets_and_each_is_told_once(scene: Scene) -> None:
    with scene.client() as client:
        stream = client.heartbeats()
        outbox = ReplyPublisher(
            open_transport(open_connection(scene.settings.broker.value)).control(clock=SYSTEM), "stem", clock=SYSTEM
        )
        try:
            first = stream.next(10.0)
            assert first is not None and first.worker == "alpha"
            for forged in (
                _beat(scene),
                _signed(scene, EVE),
                _signed(scene, VIEWER),
                first,
                _signed(scene, WORKERS, ago=900.0),
            ):
                outbox.heartbeat(forged)
                eventually(lambda: outbox._beat is None)
            honest = _signed(scene, WORKERS, worker="last")
            outbox.heartbeat(honest)
            heard = []
            while not heard or heard[-1] != "last":
                beat = stream.next(10.0)
                assert beat is not None
                heard.append(beat.worker)
            assert set(heard) <= {"alpha", "last"}
            dropped = client._trust.roster.dropped
            assert {reason: dropped[reason] for reason in ("unsigned", "unknown-key", "not-permitted", "replayed")} == {
                "unsigned": 1, "unknown-key": 1, "not-permitted": 1, "replayed": 2,
            }  # fmt: skip
        finally:
            outbox.close()
            stream.close()


def test_g12_a_worker_answers_a_question_that_began_before_it_did(scene: Scene) -> None:
    """It obeys nothing that is older than itself, so the question is issued anew when the silent are asked again."""
    asked = threading.Event()
    settings = scene.client_settings(operator("ops"))
    reports: list[Report] = []
    with ControlClient(settings, on_wait=lambda *_: asked.set()) as client:
        # An application's command, which is waited for though the roster does not know the worker.
        ask = partial(client.call, "double", {"number": 21}, workers=["late"], timeout=60.0)
        asking = threading.Thread(target=lambda: reports.append(ask()))
        asking.start()
        assert asked.wait(10)

        late = Worker(apps.app, name="late", concurrency=1, inline_slots=1)
        try:
            late.start()
            asking.join(60)
        finally:
            late.stop(0.0)

    (report,) = reports
    assert [(reply.worker, reply.error) for reply in report.replies] == [("late", None)]


# -- a worker that starts again -----------------------------------------------------------------------------------------


def test_g14_what_a_predecessor_obeyed_is_not_obeyed_again_after_a_restart(scene: Scene) -> None:
    """Last in this file, as it replaces the worker. What was seen is forgotten; that it is older than the worker is not."""
    captured, revoke = scene.signed(Call("count", {})), scene.signed(scene.order("once"))
    calls = len(CALLS)
    scene.whisper(captured)
    scene.ping()
    eventually(lambda: len(CALLS) == calls + 1)
    scene.worker.stop(0.0)

    scene.worker = Worker(apps.app, name="alpha", concurrency=1, inline_slots=4).start()
    for body in (captured, revoke):
        scene.whisper(body)
    scene.ping()

    assert scene.dropped("control", "stale") == 2
    assert len(CALLS) == calls + 1
    assert "once" not in scene.worker.cache
    # and an honest operator is obeyed
    with scene.client() as client:
        assert client.call("count").complete
