"""What several threads send at a time goes together, and none of them pays for another's message."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.errors import BrokerUnavailable, ConfigurationError
from stem_kombu.messages.encoding import Envelope
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.producer import TaskProducer
from stem_kombu.transports.publisher import OutgoingMessage, SendDeadline
from stem_kombu.transports.publisher_pool import _SHARED, PublisherPool
from tests.transports.test_producer import ids, task


class Connection:
    """Notes what is published together, once the test lets it."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.connection: Any = SimpleNamespace(as_uri=lambda: "test://", connection_errors=(), channel_errors=())

    def publish(self, parcels: list[OutgoingMessage], patience: SendDeadline) -> None:
        self._broker.publish(parcels)

    def close(self) -> None:
        self._broker.closed += 1


class Broker:
    def __init__(self) -> None:
        self.together: list[list[str]] = []
        self.sent: list[str] = []
        self.closed = 0
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.fails: Callable[[list[str]], Exception | None] = lambda names: None

    def publish(self, parcels: list[OutgoingMessage]) -> None:
        names = [parcel.task_id for parcel in parcels]
        self.together.append(names)
        self.entered.release()
        assert self.gate.wait(30)
        while parcels:
            if (error := self.fails([parcels[0].task_id])) is not None:
                raise error
            self.sent.append(parcels.pop(0).task_id)


class Senders:
    """Threads that send, of which as many as share connections are held at the gate at first."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.pool = PublisherPool(lambda patience: Connection(self.broker), 4)  # type: ignore[arg-type,return-value]
        self._threads = ThreadPoolExecutor(16)

    def send(self, *names: str, seconds: float = 60.0) -> Future[None]:
        parcels = [OutgoingMessage("q", Envelope(b"[]", {"id": name}, {})) for name in names]
        return self._threads.submit(self.pool.send, parcels, SendDeadline(seconds, SYSTEM))

    def held(self) -> list[Future[None]]:
        """So many calls that the next ones wait."""
        first = [self.send(f"first-{n}") for n in range(_SHARED)]
        for _ in first:
            assert self.broker.entered.acquire(timeout=30)
        return first

    def wait_for(self, count: int) -> None:
        deadline = SYSTEM.monotonic() + 30
        while len(self.pool._waiting) < count:
            assert SYSTEM.monotonic() < deadline
            SYSTEM.sleep(0.001)

    def sent(self) -> list[str]:
        """What the broker has beside the first."""
        return sorted(name for name in self.broker.sent if not name.startswith("first"))

    def close(self) -> None:
        self.broker.gate.set()
        self._threads.shutdown()


@pytest.fixture
def senders() -> Iterator[Senders]:
    made = Senders()
    yield made
    made.close()


def test_what_waits_for_a_connection_goes_together(senders: Senders) -> None:
    sent = senders.held()
    for n in range(6):
        sent.append(senders.send(f"t{n}", f"u{n}"))
        senders.wait_for(n + 1)
    senders.broker.gate.set()
    for each in sent:
        each.result(30)
    # the first connection that is free takes all that waits then, a second one what came since
    assert len(senders.broker.together[_SHARED:]) <= 2
    assert senders.sent() == sorted(f"{letter}{n}" for n in range(6) for letter in "tu")


def test_many_at_once_go_by_themselves_and_do_not_wait_for_the_few(senders: Senders) -> None:
    senders.held()
    many = senders.send(*[f"m{n}" for n in range(200)])
    assert senders.broker.entered.acquire(timeout=30)
    assert len(senders.broker.together[-1]) == 200
    senders.broker.gate.set()
    many.result(30)


def test_a_message_that_can_not_be_sent_is_the_error_of_its_own_thread(senders: Senders) -> None:
    senders.broker.fails = lambda names: ConfigurationError("too large") if names == ["bad"] else None
    sent = senders.held()
    for n, name in enumerate(("a", "bad", "b", "c")):
        sent.append(senders.send(name))
        senders.wait_for(n + 1)
    senders.broker.gate.set()
    failed = [each.exception(30) for each in sent]
    assert [str(each) for each in failed if each is not None] == ["too large"]
    assert failed[_SHARED + 1] is not None
    # what was sent before it was not sent again
    assert senders.sent() == ["a", "b", "c"]


def test_g18_when_the_broker_goes_each_thread_is_told_of_what_is_its_own(senders: Senders) -> None:
    gone = BrokerUnavailable("gone", hint="look")
    senders.broker.fails = lambda names: gone if names[0] in "bc" else None
    sent = senders.held()
    for n, name in enumerate(("a", "b", "c")):
        sent.append(senders.send(name))
        senders.wait_for(n + 1)
    senders.broker.gate.set()
    failed = [each.exception(30) for each in sent]
    assert failed[: _SHARED + 1] == [None] * (_SHARED + 1)
    for error in failed[_SHARED + 1 :]:
        assert isinstance(error, BrokerUnavailable)
        assert (str(error), error.hint) == ("gone", "look")
    assert failed[-1] is not failed[-2]
    assert senders.broker.closed >= 1


def test_a_thread_whose_deadline_passes_while_it_waits_is_told_so_and_sends_nothing(senders: Senders) -> None:
    sent = senders.held()
    late = senders.send("late", seconds=0.01)
    with pytest.raises(BrokerUnavailable, match="all 4 connections"):
        late.result(30)
    senders.broker.gate.set()
    for each in sent:
        each.result(30)
    senders.send("next").result(30)
    assert "late" not in [name for names in senders.broker.together for name in names]


def test_an_interrupt_while_it_waits_leaves_no_connection_in_use(
    senders: Senders, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_lock = threading.Lock

    class Interrupted:
        def __init__(self) -> None:
            self._lock = make_lock()

        def acquire(self, timeout: float = -1) -> bool:
            if self._lock.locked():
                raise KeyboardInterrupt
            return self._lock.acquire()

        def release(self) -> None:
            self._lock.release()

    sent = senders.held()
    with monkeypatch.context() as patch:
        patch.setattr("stem_kombu.transports.publisher_pool.threads.Lock", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            senders.pool.send([OutgoingMessage("q", Envelope(b"[]", {"id": "x"}, {}))], SendDeadline(60.0, SYSTEM))
    senders.broker.gate.set()
    for each in [*sent, *(senders.send(f"t{n}") for n in range(8))]:
        each.result(30)
    assert "x" not in [name for names in senders.broker.together for name in names]


def test_g18_all_that_threads_have_sent_together_is_in_the_queue(broker_url: str, queue_name: str) -> None:
    producer = TaskProducer(lambda: open_connection(broker_url))
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(producer.send, task(n, queue_name)) for n in range(200)]:
            done.result(60)
    producer.close()
    assert ids(broker_url, queue_name, 200) == Counter(f"t{n}" for n in range(200))
