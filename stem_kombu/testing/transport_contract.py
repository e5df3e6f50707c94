"""What every transport promises a worker, as tests: derive from :class:`TransportContract` and say where the broker is.

    pytest.register_assert_rewrite("stem_kombu.testing.transport_contract")  # before the import, for readable failures

    class TestMyTransport(TransportContract):
        @pytest.fixture
        def url(self):
            return "mybroker://localhost"

Kombu must have a driver for the scheme. The implementation is what
:func:`stem_kombu.transports.registry.open_transport` finds for it. Needs pytest and nothing else. A name with ``g18`` in it
proves the guarantee of that number (G18).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.concurrency.threads import Timer
from stem_kombu.concurrency.wakeup import WakePipe
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.task import TaskMessage
from stem_kombu.transports.base import TaskConsumer, Transport
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.producer import TaskProducer
from stem_kombu.transports.registry import open_transport

#: Longest wait for something that must happen, in seconds.
PATIENCE = 60.0
#: Seconds for which nothing may come that must not come.
_NEVER = 0.5


class Reader:
    """A consumer that is served as a worker does it, by one thread."""

    def __init__(self, consumer: TaskConsumer, allowance: int = 100) -> None:
        self.consumer = consumer
        self.allowance = allowance
        self._wake = WakePipe()
        self._wake.open()
        self._sweep_at = float("-inf")
        self._arrived: list[Any] = []
        consumer.allow(allowance, 0, consuming=False)
        consumer.consume()

    def turn(self, timeout: float = 0.2) -> list[Any]:
        """The messages of one turn of the loop."""
        if (now := SYSTEM.monotonic()) >= self._sweep_at:
            self.consumer.sweep()
            self._sweep_at = now + self.consumer.sweep_interval
        messages, self._arrived = self._arrived + self.consumer.take(self.allowance), []
        if not messages:
            self.wait(timeout)
        return messages

    def acknowledge(self, message: Any) -> None:
        # A broker that pushes may have sent the next message at once.
        self._arrived += self.consumer.take(0, [message.delivery_tag])

    def until(self, count: int) -> list[Any]:
        """The next so many messages; fails when they don't come."""
        found: list[Any] = []
        deadline = SYSTEM.monotonic() + PATIENCE
        while len(found) < count:
            assert SYSTEM.monotonic() < deadline, f"{len(found)} of {count} messages came: {list(map(task_of, found))}"
            found += self.turn()
        return found

    def during(self, seconds: float) -> list[Any]:
        """What comes in that time."""
        found: list[Any] = []
        deadline = SYSTEM.monotonic() + seconds
        while SYSTEM.monotonic() < deadline:
            found += self.turn(0.05)
        return found

    def wait(self, timeout: float) -> None:
        """Until there may be a message, or :meth:`wake`."""
        self.consumer.wait(self._wake.reader, timeout, more=True)

    def wake(self) -> None:
        """End a wait, from any thread."""
        self.consumer.wake()
        self._wake.wake()

    def close(self, *, keep: bool = False) -> None:
        self.consumer.close(keep=keep)
        self._wake.close()


def task_of(message: Any) -> str:
    """The task id of a delivered message."""
    return decode_delivery(message).message.task_id


class TransportContract:
    """The promises of :class:`stem_kombu.transports.base.Transport` and of what it opens."""

    #: Use only Kombu's public names, whatever the broker is.
    generic = False
    #: What a consumer held when it went comes again (G18).
    redelivers = True
    #: Messages of one sender and one queue come in the order in which they were sent.
    ordered = True
    #: What is given back comes before what waits.
    returns_to_head = True
    #: Transport options of Kombu; with leases a short one, as tests wait for its end.
    options: Mapping[str, Any] = {}

    @pytest.fixture
    def url(self) -> str:
        """Where an empty broker is. Override it."""
        raise NotImplementedError("override the fixture url: it gives the URL of an empty broker")

    @pytest.fixture
    def queue(self) -> str:
        """A task queue that no other test uses."""
        return f"contract-{uuid.uuid4().hex[:12]}"

    @pytest.fixture
    def transport(self, url: str) -> Transport:
        """The implementation, with loss accepted."""
        return open_transport(open_connection(url, options=self.options), generic=self.generic, accept_loss=True)

    @pytest.fixture
    def reader(self, transport: Transport, queue: str) -> Iterator[Callable[..., Reader]]:
        """Opens one more consumer, closed at the end of the test."""
        opened: list[Reader] = []

        def open_another(*queues: str, allowance: int = 100) -> Reader:
            opened.append(Reader(transport.consumer(queues or (queue,), clock=SYSTEM), allowance))
            return opened[-1]

        yield open_another
        for one in opened:
            one.close()

    @pytest.fixture
    def send(self, url: str, queue: str) -> Iterator[Callable[..., list[str]]]:
        """Sends tasks with those ids, to ``to`` or the queue of the test."""
        producer = TaskProducer(lambda: open_connection(url, options=self.options), generic=self.generic)

        def send(*ids: str, to: str = queue) -> list[str]:
            assert producer.send_many(TaskMessage(each, "shop.render", queue=to) for each in ids) == len(ids)
            return list(ids)

        yield send
        producer.close()

    # -- messages --

    def test_what_is_sent_arrives_and_says_from_which_queue(
        self, reader: Callable[..., Reader], send: Callable[..., list[str]], queue: str
    ) -> None:
        other = f"{queue}-other"
        both = reader(queue, other)
        send("a")
        send("b", to=other)
        found = {task_of(message): decode_delivery(message).message for message in both.until(2)}
        assert {task: message.queue for task, message in found.items()} == {"a": queue, "b": other}
        assert found["a"].name == "shop.render"

    def test_messages_come_in_the_order_in_which_they_were_sent(
        self, reader: Callable[..., Reader], send: Callable[..., list[str]]
    ) -> None:
        if not self.ordered:
            pytest.skip("this broker keeps no order")
        sent = send(*(f"t{number:03}" for number in range(60)))
        assert list(map(task_of, reader().until(60))) == sent

    def test_g18_what_was_not_acknowledged_comes_again_after_its_consumer_has_gone(
        self, reader: Callable[..., Reader], send: Callable[..., list[str]]
    ) -> None:
        if not self.redelivers:
            pytest.skip("this broker forgets what a consumer held")
        sent = send("a", "b", "c")
        first = reader()
        messages = first.until(3)
        (done,) = (message for message in messages if task_of(message) == "b")
        first.acknowledge(done)
        first.close()
        again = reader().until(2)
        assert sorted(map(task_of, again)) == sorted(set(sent) - {"b"})

    def test_what_is_acknowledged_or_rejected_does_not_come_again(
        self, reader: Callable[..., Reader], send: Callable[..., list[str]]
    ) -> None:
        send("done", "refused")
        first = reader()
        for message in first.until(2):
            if task_of(message) == "done":
                first.acknowledge(message)
            else:
                first.consumer.reject(message.delivery_tag)
        first.close()
        send("last")
        assert list(map(task_of, reader().until(1))) == ["last"]

    def test_what_is_given_back_comes_again(
        self, reader: Callable[..., Reader], send: Callable[..., list[str]]
    ) -> None:
        send("a", "b", "c")
        one = reader(allowance=1)
        (first,) = one.until(1)
        one.consumer.give_back(first.delivery_tag)
        (second,) = one.until(1)
        if self.returns_to_head and self.ordered:
            assert (task_of(first), task_of(second)) == ("a", "a")
        one.acknowledge(second)
        left = []
        for _ in range(2):
            (message,) = one.until(1)
            one.acknowledge(message)
            left.append(task_of(message))
        assert sorted([task_of(second), *left]) == ["a", "b", "c"]

    def test_no_more_is_held_than_is_allowed(
        self, reader: Callable[..., Reader], send: Callable[..., list[str]]
    ) -> None:
        send(*(f"t{number}" for number in range(10)))
        one = reader(allowance=3)
        if one.consumer.pushes:
            held = one.until(3)
            assert one.during(_NEVER) == []
            one.consumer.allow(5, 3, consuming=True)
            held += one.until(2)
            assert one.during(_NEVER) == []
        else:
            assert len(one.until(3)) == 3

    def test_a_consumer_that_rests_receives_nothing_and_acknowledges_still(
        self, reader: Callable[..., Reader], send: Callable[..., list[str]]
    ) -> None:
        one = reader()
        send("a")
        (message,) = one.until(1)
        one.consumer.rest()
        send("b")
        one.acknowledge(message)
        if one.consumer.pushes:
            assert one.during(_NEVER) == []
        one.close()
        assert list(map(task_of, reader().until(1))) == ["b"]

    # -- connections --

    def test_nothing_comes_from_a_queue_that_is_paused_until_it_is_resumed(
        self, reader: Callable[..., Reader], send: Callable[..., list[str]], queue: str
    ) -> None:
        other = f"{queue}-other"
        both = reader(queue, other)
        send("first")
        (held,) = both.until(1)
        both.consumer.pause([queue])
        send("paused-1", "paused-2")
        send("other-1", to=other)
        assert list(map(task_of, both.until(1))) == ["other-1"]
        assert both.during(_NEVER) == []
        both.acknowledge(held)
        # The others go on, whatever is paused and resumed beside them.
        both.consumer.pause([queue, other])
        send("other-2", to=other)
        assert both.during(_NEVER) == []
        both.consumer.pause([queue])
        assert list(map(task_of, both.until(1))) == ["other-2"]
        both.consumer.pause([])
        assert sorted(map(task_of, both.until(2))) == ["paused-1", "paused-2"]

    def test_a_consumer_may_be_paused_before_it_consumes(
        self, transport: Transport, reader: Callable[..., Reader], send: Callable[..., list[str]], queue: str
    ) -> None:
        other = f"{queue}-other"
        declared = reader(queue, other)
        declared.close()
        consumer = transport.consumer((queue, other), clock=SYSTEM)
        consumer.pause([queue])
        one = Reader(consumer)
        try:
            send("paused")
            send("open", to=other)
            assert list(map(task_of, one.until(1))) == ["open"]
            assert one.during(_NEVER) == []
        finally:
            one.close()

    def test_a_wait_ends_when_it_is_woken(self, reader: Callable[..., Reader]) -> None:
        one = reader()
        one.during(0.2)
        timer = Timer(0.2, one.wake)
        timer.start()
        started = SYSTEM.monotonic()
        one.wait(PATIENCE)
        assert SYSTEM.monotonic() - started < PATIENCE / 2
        timer.join()

    def test_a_message_comes_while_its_consumer_waits(
        self, reader: Callable[..., Reader], send: Callable[..., list[str]]
    ) -> None:
        one = reader()
        assert one.during(0.2) == []
        timer = Timer(0.1, send, ("late",))
        timer.start()
        assert list(map(task_of, one.until(1))) == ["late"]
        timer.join()

    def test_closing_twice_is_fine(self, reader: Callable[..., Reader]) -> None:
        one = reader()
        one.close(keep=True)
        one.close()

    def test_where_tags_are_kept_another_connection_acknowledges(
        self, reader: Callable[..., Reader], send: Callable[..., list[str]]
    ) -> None:
        send("a")
        first = reader()
        if not first.consumer.keeps_tags:
            pytest.skip("a tag means nothing to another connection here")
        (message,) = first.until(1)
        first.close(keep=True)
        second = reader()
        second.acknowledge(message)
        send("b")
        assert list(map(task_of, second.until(1))) == ["b"]

    def test_the_next_way_is_not_another_for_an_error_of_no_meaning(self, transport: Transport) -> None:
        assert not transport.adapts_to(RuntimeError("anything"))

    # -- beside the consumer --

    def test_g19_a_renewed_lease_is_kept_and_that_of_an_acknowledged_message_is_lost(
        self, transport: Transport, reader: Callable[..., Reader], send: Callable[..., list[str]]
    ) -> None:
        leases = transport.leases()
        if leases is None:
            pytest.skip("this broker has no leases")
        try:
            send("a")
            one = reader()
            (message,) = one.until(1)
            until = SYSTEM.monotonic() + min(6.0, 1.5 * leases.lifetime)
            other = reader()
            while SYSTEM.monotonic() < until:
                assert leases.renew([message]) == [True]
                assert other.turn(0.1) == []
            one.acknowledge(message)
            assert leases.renew([message]) == [False]
        finally:
            leases.close()

    def test_depths_are_those_of_ready_messages(
        self, transport: Transport, reader: Callable[..., Reader], send: Callable[..., list[str]], queue: str
    ) -> None:
        send("a", "b", "c")
        depths = transport.depths()
        try:
            if not transport.capabilities.counts:
                assert depths.of([queue]) == {queue: None}
                return
            assert depths.of([queue]) == {queue: 3}
            assert depths.of([f"{queue}-unknown"])[f"{queue}-unknown"] in (None, 0)
        finally:
            depths.close()
            depths.close()

    def test_a_browser_shows_what_waits_and_takes_nothing(
        self, transport: Transport, reader: Callable[..., Reader], send: Callable[..., list[str]], queue: str
    ) -> None:
        browser = transport.browser()
        if browser is None:
            pytest.skip("this broker can't be searched without harm")
        try:
            assert browser.first(queue, 10) == list(browser.search(queue)) == []
            sent = send(*(f"t{number:03}" for number in range(30)))
            send("typo", to=f"{queue}-typo")
            for _ in range(2):
                assert {queue, f"{queue}-typo"} <= set(browser.queues())
                assert list(map(task_of, browser.first(queue, 3))) == sent[:3]
                assert list(map(task_of, browser.first(queue, 100))) == sent
                assert sorted(map(task_of, browser.search(queue))) == sent
                assert {decode_delivery(message).message.queue for message in browser.search(queue)} == {queue}
            found = reader().until(30)
            assert list(map(task_of, found)) == sent
            assert not any(decode_delivery(message).redelivered for message in found)
            assert list(browser.search(queue)) == [], "what a consumer holds does not wait"
        finally:
            browser.close()
            browser.close()

    def test_a_search_passes_over_no_message_that_stays(
        self, transport: Transport, reader: Callable[..., Reader], send: Callable[..., list[str]], queue: str
    ) -> None:
        browser = transport.browser()
        if browser is None:
            pytest.skip("this broker can't be searched without harm")
        try:
            sent = send(*(f"t{number:04}" for number in range(1200)))
            search = browser.search(queue)
            seen = {task_of(next(search))}
            taken = {task_of(message) for message in reader().until(50)}
            send("late-1", "late-2")
            seen |= set(map(task_of, search))
            assert set(sent) - taken <= seen
        finally:
            browser.close()

    def test_purging_removes_what_waits_and_leaves_what_is_held(
        self, transport: Transport, reader: Callable[..., Reader], send: Callable[..., list[str]], queue: str
    ) -> None:
        assert transport.purge(f"{queue}-unknown") == 0
        send("held")
        one = reader(allowance=1)
        (held,) = one.until(1)
        send("a", "b", "c")
        assert transport.purge(queue) == 3
        one.acknowledge(held)
        send("last")
        assert list(map(task_of, one.until(1))) == ["last"]

    def test_the_broker_can_be_checked_and_swept(self, transport: Transport, queue: str) -> None:
        told = transport.check(lambda: [queue])
        assert ["does not deliver again" in each for each in told] == [True] * transport.capabilities.forgets_held
        assert transport.give_back_held().returned == 0
        assert transport.housekeeping("contract", "worker-1").sweep({"worker-1"}) == 0
        assert not transport.has_dead_letters(queue)
        assert transport.unused_life(queue) is None

    def test_its_name_and_url_can_be_shown(self, transport: Transport, url: str) -> None:
        assert transport.name
        assert ":secret@" not in transport.url
