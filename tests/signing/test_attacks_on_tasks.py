"""Signed tasks: what nobody signed does not run, leaves no trace on a task whose name it bears, and is counted."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis

from stem_kombu.app import Stem
from stem_kombu.errors import ConfigurationError
from stem_kombu.messages.encoding import HEADER_SIGNATURE_V1, HEADER_SIGNATURE_V2, Envelope
from stem_kombu.messages.signatures import TASK, TASK_V1, task_signer
from stem_kombu.settings import SigningSettings
from stem_kombu.signing.keyring import Untrusted
from stem_kombu.task import TaskMessage
from stem_kombu.testing.gates import Gate
from stem_kombu.transports.connections import broker_connection
from stem_kombu.transports.producer import TaskProducer
from tests.servers.redis import RedisServer
from tests.signing.keys import hmac_keys, shared
from tests.signing.scene import FLEET, FLEET_SCOPES, Scene, operator
from tests.waiting import eventually

Sign = Callable[[str, Envelope], Envelope]


@pytest.fixture(scope="module", params=["embedded", "redis", "amqp"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("tasks")
    if request.param == "embedded":
        broker = f"sqlite://{folder}/broker.db"
    else:
        server = request.getfixturevalue("redis_server" if request.param == "redis" else "rabbitmq_server")
        server.start()
        broker = server.new_database() if request.param == "redis" else server.new_vhost()
    state = f"sqlite://{folder}/state.db"
    scene = Scene(broker, state, state, folder, replace(FLEET, tasks="require"))
    yield scene
    scene.close()


def signer(settings: SigningSettings) -> Sign:
    sign = task_signer(replace(settings, tasks="require"))
    assert sign is not None
    return sign


OPS, EVE = signer(operator("ops")), signer(shared("eve"))
#: A viewer may not send; on his own machine nobody keeps him from signing.
VIEWER = signer(shared("viewer"))


def send(scene: Scene, sign: Sign, **changes: Any) -> None:
    """Send the task ``victim``, or another, through a producer that treats the message like that."""
    message = TaskMessage(
        "victim", "inline.add", (1,), queue="default", **{k: v for k, v in changes.items() if k != "task_id"}
    )
    producer = TaskProducer(lambda: broker_connection(scene.settings), sign=sign)
    try:
        producer.send(replace(message, task_id=changes.get("task_id", "victim")))
    finally:
        producer.close()


def unsigned(queue: str, envelope: Envelope) -> Envelope:
    return envelope


def altered(**headers: Any) -> Sign:
    """Signed by an operator, and then with these headers; ``None`` takes one away."""

    def sign(queue: str, envelope: Envelope) -> Envelope:
        signed = OPS(queue, envelope)
        kept = {
            name: value for name, value in {**signed.headers, **headers}.items() if headers.get(name, 0) is not None
        }
        return replace(signed, headers=kept)

    return sign


def with_other_arguments(queue: str, envelope: Envelope) -> Envelope:
    _, *rest = json.loads(envelope.body)
    return replace(OPS(queue, envelope), body=json.dumps([[1000], *rest]).encode())


def of_another_queue(queue: str, envelope: Envelope) -> Envelope:
    return OPS("other", envelope)


def replaced(**changes: Any) -> Sign:
    return lambda queue, envelope: replace(OPS(queue, envelope), **changes)


def with_properties(**changes: Any) -> Sign:
    return lambda queue, envelope: replace(OPS(queue, envelope), properties={**envelope.properties, **changes})


def compressed(queue: str, envelope: Envelope) -> Envelope:
    signed = OPS(queue, envelope)
    return replace(
        signed, body=zlib.compress(signed.body), headers={**signed.headers, "compression": "application/x-gzip"}
    )


def as_the_new_one(queue: str, envelope: Envelope) -> Envelope:
    signed = OPS(queue, envelope)
    return replace(signed, headers={**signed.headers, HEADER_SIGNATURE_V2: signed.headers[HEADER_SIGNATURE_V1]})


@dataclass(frozen=True)
class Attack:
    name: str
    reason: str
    sign: Sign


ATTACKS = [
    Attack("an unsigned task", "unsigned", unsigned),
    Attack("the signatures taken away", "unsigned", altered(**{HEADER_SIGNATURE_V1: None, HEADER_SIGNATURE_V2: None})),
    Attack("a signature of nothing", "bad-signature", altered(**{HEADER_SIGNATURE_V2: "hmac-sha256:ops:AAAA"})),
    Attack("a signature that is no text", "bad-signature", altered(**{HEADER_SIGNATURE_V2: [1, 2]})),
    Attack("the signature of 0.1.0 alone", "outdated-signature", altered(**{HEADER_SIGNATURE_V2: None})),
    Attack("the signature of 0.1.0 as the new one", "bad-signature", as_the_new_one),
    Attack("another content type", "bad-signature", replaced(content_type="application/x-python-serialize")),
    Attack("a content type that nobody knows", "bad-signature", replaced(content_type="text/plain")),
    Attack("another content encoding", "bad-signature", replaced(content_encoding="binary")),
    Attack("a compression that there is none of", "bad-signature", altered(compression="application/x-gzip")),
    Attack("the body compressed", "bad-signature", compressed),
    Attack("another place for the result", "bad-signature", with_properties(reply_to="eves-inbox")),
    Attack("another correlation id", "bad-signature", with_properties(correlation_id="somebody-elses")),
    Attack("an eta for the embedded broker alone", "bad-signature", altered(**{"stem-eta": 1.0})),
    Attack("a stranger's task", "unknown-key", EVE),
    Attack("a viewer's task", "not-permitted", VIEWER),
    Attack("other arguments", "bad-signature", with_other_arguments),
    Attack("another handler", "bad-signature", altered(task="inline.who")),
    Attack("another id", "bad-signature", altered(id="somebody-elses")),
    Attack("another queue", "bad-signature", of_another_queue),
    Attack("an eta", "bad-signature", altered(eta="2099-01-01T00:00:00Z")),
    Attack("an expiry", "bad-signature", altered(expires="2001-01-01T00:00:00Z")),
    Attack("another attempt", "bad-signature", altered(retries=3)),
    Attack("a time limit", "bad-signature", altered(timelimit=[0.001, None])),
    Attack("other headers of the user's", "bad-signature", altered(**{"stem-headers": '{"tenant":"eve"}'})),
    Attack("no algorithm", "wrong-algorithm", altered(**{HEADER_SIGNATURE_V2: "none:ops:AAAA"})),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_forged_task_does_not_run_and_the_real_one_is_untouched(scene: Scene, attack: Attack) -> None:
    before, state = scene.dropped("tasks", attack.reason), scene.state()
    recorded = scene.sender.result("victim").record

    send(scene, attack.sign)

    eventually(lambda: scene.dropped("tasks", attack.reason) == before + 1)
    assert scene.state() == state
    assert scene.sender.result("victim").record == recorded
    assert recorded is not None and recorded.state.value == "running"


def test_signed_tasks_run_and_so_do_their_next_attempts(scene: Scene) -> None:
    """The worker signs the retry with its own key."""
    assert scene.sender.send_task("inline.add", [1], {"b": 2}, headers={"tenant": "shop"}).get(timeout=30) == 3
    gate = Gate(scene.folder / "fails")
    result = scene.sender.send_task("inline.fails", [gate.path], max_retries=1)
    eventually(lambda: (record := result.record) is not None and record.state.value == "failed")
    assert gate.reached("attempt-2") is not None


def test_a_header_that_nobody_signed_does_not_reach_the_handler(scene: Scene) -> None:
    seen: list[Any] = []
    original = scene.worker.executor.submit
    scene.worker.executor.submit = lambda job: (seen.append(job.message), original(job))  # type: ignore[assignment,func-returns-value,method-assign]
    try:
        send(scene, altered(traceparent="00-1", tenant="eve"), task_id="with-headers", headers={"tenant": "shop"})
        eventually(lambda: seen)
    finally:
        scene.worker.executor.submit = original  # type: ignore[method-assign]

    assert seen[0].headers == {"tenant": "shop"}


def test_in_a_migration_unsigned_tasks_run_and_forged_ones_do_not(scene: Scene) -> None:
    from stem_kombu.messages.signatures import task_verifier
    from stem_kombu.signing.configuration import open_keyring

    settings = replace(FLEET, tasks="sign")
    verify = task_verifier(settings, open_keyring(settings))
    assert verify is not None

    plain = Envelope(b"[[],{},{}]", {"task": "t", "id": "1"}, {})
    assert verify(Raw(plain)) is False
    assert verify(Raw(OPS("q", plain))) is True
    with pytest.raises(Untrusted):
        verify(Raw(OPS("other", plain)))


PLAIN = Envelope(b"[[],{},{}]", {"task": "t", "id": "1"}, {})
OLD = replace(PLAIN, headers={k: v for k, v in OPS("q", PLAIN).headers.items() if k != HEADER_SIGNATURE_V2})


class Raw:
    """A Kombu message that came from the queue ``q``."""

    def __init__(self, envelope: Envelope) -> None:
        self.headers, self.body, self.properties = envelope.headers, envelope.body, envelope.properties
        self.content_type, self.content_encoding = envelope.content_type, envelope.content_encoding
        self.delivery_info, self.errors, self.delivery_tag = {"routing_key": "q"}, (), 1


@pytest.mark.parametrize(
    ("tasks", "v1", "said"),
    [
        ("require", None, "outdated-signature"),
        ("require", "send", "outdated-signature"),
        ("require", "off", "outdated-signature"),
        ("require", "accept", True),
        ("sign", None, False),
        ("sign", "accept", True),
    ],
)
def test_a_signature_of_0_1_0_counts_where_the_settings_accept_it(tasks: str, v1: str | None, said: bool | str) -> None:
    from stem_kombu.messages.signatures import task_verifier
    from stem_kombu.signing.configuration import open_keyring

    settings = replace(FLEET, tasks=tasks, tasks_v1=v1)
    verify = task_verifier(settings, open_keyring(settings))
    assert verify is not None
    if isinstance(said, str):
        with pytest.raises(Untrusted) as refused:
            verify(Raw(OLD))
        assert refused.value.reason == said
        assert "STEM_SIGNING_TASKS_V1=accept" in str(refused.value)
    else:
        assert verify(Raw(OLD)) is said
    # whatever the settings, one that is changed or was for another queue is refused, and not taken for unsigned
    for forged in (replace(OLD, body=b"[[1],{},{}]"), replace(OLD, headers={**OLD.headers, "task": "u"})):
        with pytest.raises(Untrusted):
            verify(Raw(forged))


def test_tasks_are_signed_for_workers_of_0_1_0_as_well_until_that_is_switched_off() -> None:
    off = signer(replace(operator("ops"), tasks_v1="off"))
    assert {HEADER_SIGNATURE_V1, HEADER_SIGNATURE_V2} <= OPS("q", PLAIN).headers.keys()
    assert HEADER_SIGNATURE_V1 not in off("q", PLAIN).headers
    with pytest.raises(ConfigurationError, match="STEM_SIGNING_TASKS_V1"):
        signer(replace(operator("ops"), tasks_v1="maybe"))


@pytest.mark.parametrize("signed", [True, False])
def test_a_worker_signs_the_next_attempt_only_of_what_was_signed(signed: bool) -> None:
    """In a migration (``sign``) unsigned tasks run: a worker's signature under their retries would let them in where tasks
    must be signed."""
    from stem_kombu.messages.decoding import decode_delivery

    producer = TaskProducer(lambda: pytest.fail("it connects"), sign=OPS)
    arrived = decode_delivery(Raw(OPS("q", PLAIN) if signed else PLAIN), signed=signed)

    parcel = producer._parcel(replace(arrived.message, attempt=2))

    assert (HEADER_SIGNATURE_V2 in parcel.envelope.headers) is signed
    assert (HEADER_SIGNATURE_V1 in parcel.envelope.headers) is signed


def test_what_nobody_signed_and_cant_be_read_leaves_no_trace_in_a_migration(tmp_path: Path) -> None:
    """Without signing it is recorded as failed, for whom a client may wait; with it, its id may be another task's."""
    state = f"sqlite://{tmp_path}/state.db"
    scene = Scene(f"sqlite://{tmp_path}/broker.db", state, state, tmp_path, replace(FLEET, tasks="sign"))
    try:
        before = scene.dropped("tasks", "bad-message")
        send(scene, lambda queue, envelope: replace(envelope, content_type="application/x-python-serialize"))

        eventually(lambda: scene.dropped("tasks", "bad-message") == before + 1)
        # what comes after it is recorded after it
        assert scene.sender.send_task("inline.add", [1], {"b": 2}).get(timeout=30) == 3
        record = scene.sender.result("victim").record
        assert record is not None and record.state.value == "running"
    finally:
        scene.close()


def test_what_was_signed_for_another_queue_does_not_run_where_somebody_moves_it(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """On Redis a message says itself which queue it is for: that, too, is the attacker's to write."""
    url, state = redis_server.new_database(), f"sqlite://{tmp_path}/state.db"
    scene = Scene(url, state, state, tmp_path, replace(FLEET, tasks="require"))
    try:
        with redis.Redis.from_url(url) as client:
            for said in ("other", "default"):
                before = scene.dropped("tasks", "bad-signature")
                scene.sender.send_task("inline.add", [1], {"b": 2}, queue="other", task_id=f"moved-{said}")
                message = json.loads(client.rpop("other"))
                message["properties"]["delivery_info"]["routing_key"] = said
                client.lpush("default", json.dumps(message))
                eventually(lambda before=before: scene.dropped("tasks", "bad-signature") == before + 1)
                record = scene.sender.result(f"moved-{said}").record
                assert record is not None and record.state.value == "queued"
            # and where it was signed for this queue, it runs whatever the message says of itself
            scene.sender.send_task("inline.add", [1], {"b": 2}, queue="other", task_id="back")
            assert client.llen("other") == 1
    finally:
        scene.close()


def test_who_may_not_send_is_told_before_anything_is_sent() -> None:
    app = Stem("viewer", broker="memory://nobody", signing=shared("viewer", key_scopes=FLEET_SCOPES, tasks="sign"))
    with pytest.raises(Untrusted, match="send"):
        app.send_task("inline.add", [1])

    incomplete = Stem("half", broker="memory://nobody", signing=SigningSettings(keys=hmac_keys("ops")))
    with pytest.raises(ConfigurationError, match="STEM_SIGNING_ACTIVE_KEY"):
        incomplete.send_task("inline.add", [1])
    assert (TASK, TASK_V1) == (b"stem-task/2", b"stem-task/1")
