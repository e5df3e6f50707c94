"""Signed tasks: what nobody signed does not run, leaves no trace on a task whose name it bears, and is counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from stem_kombu.app import Stem
from stem_kombu.broker.connections import broker_connection
from stem_kombu.broker.encoding import Envelope
from stem_kombu.broker.producer import TaskProducer
from stem_kombu.broker.task_signatures import HEADER_SIGNATURE, TASK, task_signer
from stem_kombu.errors import ConfigurationError
from stem_kombu.settings import SigningSettings
from stem_kombu.signing.keyring import Untrusted
from stem_kombu.task import TaskMessage
from stem_kombu.testing.gates import Gate
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


@dataclass(frozen=True)
class Attack:
    name: str
    reason: str
    sign: Sign


ATTACKS = [
    Attack("an unsigned task", "unsigned", unsigned),
    Attack("the signature taken away", "unsigned", altered(**{HEADER_SIGNATURE: None})),
    Attack("a signature of nothing", "bad-signature", altered(**{HEADER_SIGNATURE: "hmac-sha256:ops:AAAA"})),
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
    Attack("no algorithm", "wrong-algorithm", altered(**{HEADER_SIGNATURE: "none:ops:AAAA"})),
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
    original = scene.worker.intake._desk.submit
    scene.worker.intake._desk.submit = lambda delivery: (seen.append(delivery.message), original(delivery))  # type: ignore[assignment,func-returns-value,method-assign]
    try:
        send(scene, altered(traceparent="00-1", tenant="eve"), task_id="with-headers", headers={"tenant": "shop"})
        eventually(lambda: seen)
    finally:
        scene.worker.intake._desk.submit = original  # type: ignore[method-assign]

    assert seen[0].headers == {"tenant": "shop"}


def test_in_a_migration_unsigned_tasks_run_and_forged_ones_do_not(scene: Scene) -> None:
    from stem_kombu.broker.task_signatures import task_verifier
    from stem_kombu.signing.configuration import open_keyring

    settings = replace(FLEET, tasks="sign")
    verify = task_verifier(settings, open_keyring(settings))
    assert verify is not None

    class Raw:
        def __init__(self, envelope: Envelope) -> None:
            self.headers, self.body, self.delivery_info = envelope.headers, envelope.body, {"routing_key": "q"}

    plain = Envelope(b"[[],{},{}]", {"task": "t", "id": "1"}, {})
    assert verify(Raw(plain)) is False
    assert verify(Raw(OPS("q", plain))) is True
    with pytest.raises(Untrusted):
        verify(Raw(OPS("other", plain)))


def test_who_may_not_send_is_told_before_anything_is_sent() -> None:
    app = Stem("viewer", broker="memory://nobody", signing=shared("viewer", key_scopes=FLEET_SCOPES, tasks="sign"))
    with pytest.raises(Untrusted, match="send"):
        app.send_task("inline.add", [1])

    incomplete = Stem("half", broker="memory://nobody", signing=SigningSettings(keys=hmac_keys("ops")))
    with pytest.raises(ConfigurationError, match="STEM_SIGNING_ACTIVE_KEY"):
        incomplete.send_task("inline.add", [1])
    assert TASK.startswith(b"stem-task")
