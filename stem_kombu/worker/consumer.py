"""The connection that brings work: consume, hand over, and acknowledge what others have finished.

A Kombu connection belongs to one thread. Whoever finishes a delivery leaves it with :meth:`Consumer.finish` and wakes
that thread. Redis is read by scripts of ours (:mod:`stem_kombu.transports.redis.consumer`), RabbitMQ's messages are taken in as
they arrive (:mod:`stem_kombu.transports.amqp.consumer`); a pipe wakes both at once. The others are drained in short slices.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from kombu import Connection

from stem_kombu.clock import Clock
from stem_kombu.concurrency.service import Service
from stem_kombu.concurrency.wakeup import WakePipe
from stem_kombu.errors import BrokerError, BrokerRefused
from stem_kombu.messages.decompression import limit_decompression
from stem_kombu.messages.encoding import LARGEST_BODY
from stem_kombu.transports.amqp.consumer import AmqpSource
from stem_kombu.transports.connections import connect, pulse
from stem_kombu.transports.errors import refusal, shown_url
from stem_kombu.transports.outages import Outage
from stem_kombu.transports.queues import TaskConsumers, declared_task_queue, forsake, give_back
from stem_kombu.transports.redis.consumer import RedisSource, open_redis_source
from stem_kombu.worker.ack_queue import AckQueue
from stem_kombu.worker.deliveries import Delivery, InFlight
from stem_kombu.worker.prefetch import Prefetch
from stem_kombu.worker.settlement import MessageDisposition

logger = logging.getLogger(__name__)

#: Seconds of one blocking read where nothing can interrupt it: the longest that an acknowledgement waits there.
_SLICE = 0.02
_CONNECT_TIMEOUT = 4.0
#: Seconds for which the queues must have been consumed without a message before that counts as working.
_SETTLED = 1.0
_QUIESCE_TIMEOUT = 5.0  # the thread may be reading the revoke store
#: From a source: messages acknowledged in one round trip, and how many may wait to be recorded beside those in slots.
_TOGETHER, _SETTLING = 500, 64
#: Seconds between two turns while more messages are here than the slots take meanwhile.
_GATHER_STOCKED = 0.002
#: Drivers whose delivery tags outlive a connection.
_LASTING_TAGS = frozenset({"redis"})
#: AMQP's codes for what a queue or a broker does not do.
_REFUSED = frozenset({540, 541})


class Consumer:
    """Consumes task queues in a thread of its own.

    ``allowance()`` says how many messages may be here, and is asked in every turn.
    ``receive(message, generation)`` is called for each delivery, in that thread; ``generation`` numbers the connections.
    ``garbage`` is told of what lay in a queue and is no message at all.
    ``reconnected`` is called, in that thread, after each connection but the first, and ``lost`` after each connection
    that was lost, before the next one is tried. ``each_turn(connection)`` is called, in that thread, a few times a second
    at least where messages are drained in slices.
    """

    def __init__(
        self,
        connection: Connection,
        queues: Sequence[str],
        inflight: InFlight,
        *,
        allowance: Callable[[], int],
        receive: Callable[[Any, int], None],
        garbage: Callable[[Exception], None],
        reconnected: Callable[[], None],
        lost: Callable[[], None],
        clock: Clock,
        each_turn: Callable[[Connection], None] = lambda _: None,
    ) -> None:
        self._garbage, self._each_turn = garbage, each_turn
        self._template = connection
        self.queues = tuple(queues)
        self._inflight = inflight
        self._receive, self._reconnected, self._lost = receive, reconnected, lost
        self._clock, self._allowance = clock, allowance
        self._prefetch = Prefetch()
        self.generation = 0
        self.fetched_at = 0.0  # monotonic, or earlier: of what is being taken in
        self._outage = Outage(f"task queues {', '.join(queues)} are not consumed", shown_url(connection), clock)
        self._finished = AckQueue()
        self._pipe = WakePipe()
        self._wake_transport: Callable[[], object] | None = None
        self._quiet, self._ended, self._ready, self._resting = (threading.Event() for _ in range(4))
        self._refusal: BrokerRefused | None = None
        self._resting.set()
        self._background = Service(
            self._run, "stem-consumer", begin=self._begin, wake=self._end_soon, end=self._pipe.close
        )
        self._connection: Connection | None = None
        self._consumer: TaskConsumers | None = None
        self._source: RedisSource | AmqpSource | None = None

    # -- from any thread ------------------------------------------------------------------------------------------------

    def start(self, timeout: float = 30.0) -> None:
        """Return once the queues are consumed.

        Raises :class:`~stem_kombu.errors.BrokerError` when that has not come about within ``timeout`` seconds,
        or :meth:`stop` was called meanwhile.
        """
        stops = self._background.stops
        in_time = self._background.start(stops) and self._ready.wait(timeout)
        if self._background.stops != stops:
            raise BrokerError("told to stop before the task queues were consumed")
        if self._refusal is not None:
            self.stop()
            raise self._refusal
        if not in_time:
            self.stop()
            raise BrokerError(f"the task queues could not be consumed within {timeout:g} s: {self.trouble}")

    def finish(self, delivery: Delivery, then: MessageDisposition) -> None:
        """Acknowledge, give back or let go of the delivery, soon, in the thread that may."""
        self._finished.add(delivery, then)
        self.wake()

    def wake(self) -> None:
        """Make the thread look at what there is to do, now."""
        if (wake := self._wake_transport) is not None:
            wake()
        self._pipe.wake()

    @property
    def prefetch(self) -> int:
        """How many unacknowledged messages may be here."""
        return self._prefetch.count

    @property
    def trouble(self) -> str | None:
        """The last failure while the queues can't be consumed, else ``None``."""
        return self._outage.trouble

    @property
    def consuming(self) -> bool:
        """Whether the queues are being consumed right now."""
        return not self._resting.is_set()

    def still_holds(self, generation: int) -> bool:
        """Whether connection ``generation`` stands, as far as can be seen without reading from it. From any thread."""
        here = self._connection is not None and generation == self.generation
        return here and not getattr(self._source, "is_cut", False)

    def quiesce(self) -> None:
        """Fetch nothing more, and return when nothing is taken in any more (or the thread hangs); acknowledging goes on."""
        self._quiet.set()
        self.wake()
        self._resting.wait(_QUIESCE_TIMEOUT)

    def stop(self) -> None:
        """Return when the thread has ended; everything handed to :meth:`finish` before has been carried out."""
        self._quiet.set()
        self._background.stop()

    # -- the thread -----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._pipe.open()
        for event in (self._quiet, self._ended, self._ready):
            event.clear()
        self._refusal = None

    def _end_soon(self) -> None:
        self._quiet.set()
        self._ended.set()
        self._ready.set()  # a start that still waits gives up
        self.wake()

    def _run(self) -> None:
        while not self._ended.is_set():
            if (wait := self._outage.turn()) > 0:
                self._ended.wait(wait)
                continue
            connection = self._template.clone()
            try:
                connect(connection, _CONNECT_TIMEOUT)
                self._outage.reached()
                self.generation += 1
                self._serve(connection)
            except (BrokerError, *connection.connection_errors, *connection.channel_errors) as error:
                if getattr(error, "reply_code", None) in _REFUSED and self._prefetch.is_global:
                    self._prefetch.is_global = False  # a quorum queue, or a broker where that is switched off
                    continue
                if not self._ready.is_set() and (refused := refusal(error, connection)) is not None:
                    self._refusal = refused  # the start that waits need not
                    self._ready.set()
                wait = self._outage.failed(error)
            except Exception as error:
                # The thread's boundary: whatever a driver raises, the worker goes on consuming after a new connection.
                if not self._outage.failures:
                    logger.exception("consuming %s failed", ", ".join(self.queues))
                wait = self._outage.failed(repr(error))
            finally:
                self._resting.set()
                self._wake_transport = None
                self._connection = self._consumer = None
                source, self._source = self._source, None
                # Without giving back what still runs here: where tags outlive the connection, the lease is renewed and
                # the acknowledgement goes out over the next one.
                forsake(connection, source, keep=not self._ended.is_set())
            if not self._ended.is_set():
                self._lost()
            self._ended.wait(wait)
        self._outage.forget()
        while self._finished:  # the broker stayed away until the end, and delivers again what was not acknowledged
            self._inflight.remove(self._finished.take().token)

    def _serve(self, connection: Connection) -> None:
        self._connection = connection
        generation = self.generation
        limit_decompression(connection.default_channel, LARGEST_BODY)
        queues = [declared_task_queue(connection, queue) for queue in self.queues]
        arrived: Callable[[Any], None] = lambda message: self._take_in(message, generation)  # noqa: E731
        if connection.transport.driver_type == "redis":
            self._source = open_redis_source(connection, self.queues, clock=self._clock, garbage=self._garbage)
        elif connection.transport.driver_type == "amqp":
            self._source = pushed = AmqpSource(connection, clock=self._clock)
            arrived = pushed.arrived
        self._consumer = TaskConsumers(connection.default_channel, queues, arrived)
        self._prefetch.opened(self._consumer, self._source, self._allowed(), len(self._inflight))
        if not self._quiet.is_set():
            if self._is_pushed:
                self._consumer.consume()
            self._resting.clear()
        self._served_at = self._clock.monotonic()
        if generation > 1:
            self._reconnected()
        self._ready.set()
        if self._source is not None:
            self._serve_by_source(self._source)
        else:
            self._serve_by_slices(connection)

    @property
    def _is_pushed(self) -> bool:
        """Whether the broker sends messages of its own accord, as many as the prefetch count allows."""
        return self._source is None or self._source.pushes

    def _serve_by_source(self, source: Any) -> None:
        generation = self.generation
        sweep_at = turned_at = float("-inf")
        while self._keep_serving():
            if (now := self._clock.monotonic()) >= sweep_at:
                source.sweep()
                sweep_at = now + source.sweep_interval
            # A stream of short tasks: let some of them end, so that one round trip serves many.
            gather = _GATHER_STOCKED if self._inflight.is_stocked(self.prefetch) else source.gather
            if now - turned_at < gather:
                self._ended.wait(gather - (now - turned_at))
            room, self.fetched_at = self._room() if self.consuming else 0, self._clock.monotonic()
            done = self._finished.take_acknowledgements(_TOGETHER)
            try:
                tags = [delivery.handle.delivery_tag for delivery in done if self._may_settle(delivery)]
                messages = source.take(room, tags) if room or done or source.pushes else []
            except BaseException:
                self._finished.put_back(done)
                raise
            for delivery in done:
                self._inflight.remove(delivery.token)
            self._worked(bool(messages or done))
            for message in messages:
                self._take_in(message, generation)
                if message.acknowledged:
                    source.settled(message.delivery_tag)
            turned_at = self._clock.monotonic()
            if len(messages) < room or not (messages or done):
                source.wait(self._pipe.reader, min(1.0, sweep_at - now), more=len(messages) < room)

    def _worked(self, something: bool) -> None:
        """Not because it is connected: what is refused to a connection that stands is to be tried ever more rarely."""
        if self._outage.trouble and (something or self._clock.monotonic() - self._served_at > _SETTLED):
            self._outage.worked()

    def _take_in(self, message: Any, generation: int) -> None:
        if not self._quiet.is_set():
            self._receive(message, generation)
        else:  # it was under way when we were told to fetch nothing more, and what still runs here may take long
            self._give_back(message.delivery_tag)

    def _room(self) -> int:
        """How many messages may come. What is only being recorded takes no slot, so that recording overlaps with the
        next tasks; but while a backend is away it must not pile up."""
        taking_slots = self._inflight.occupying
        if len(self._inflight) - taking_slots - self._inflight.set_aside_count > self.prefetch + _SETTLING:
            return 0
        return max(0, self.prefetch - taking_slots)

    def _allowed(self) -> int:
        # To a broker that pushes, what is set aside are messages like others.
        return self._allowance() + (self._inflight.set_aside_count if self._is_pushed else 0)

    def _serve_by_slices(self, connection: Connection) -> None:
        self._wake_transport = getattr(connection.transport, "wake", None)
        while self._keep_serving():
            pulse(connection, clock=self._clock)
            self._each_turn(connection)
            self._worked(False)
            self.fetched_at = self._clock.monotonic()
            try:
                connection.drain_events(timeout=1.0 if self._wake_transport is not None else _SLICE)
            except TimeoutError:
                continue

    def _keep_serving(self) -> bool:
        """Do what other threads have left here; ``False`` when it is time to end."""
        self._pipe.drain()  # first: what is left here after this wakes the thread again
        if self._quiet.is_set() and self.consuming:
            assert self._consumer is not None
            if self._is_pushed:
                self._consumer.cancel()
            if self._source is not None:
                self._source.rest()
            self._resting.set()
        # Before anything is given back, or the broker would send it right here again.
        self._prefetch.allow(self._allowed(), len(self._inflight), consuming=self.consuming)
        while self._finished:
            delivery, then = self._finished.first()
            if self._source is not None and then is MessageDisposition.ACKNOWLEDGE:
                break  # it goes with the next burst, in one round trip
            self._carry_out(delivery, then)
            self._finished.take()  # only now, so that a connection lost in the middle finds it here again
        self._prefetch.allow(self._allowed(), len(self._inflight), consuming=self.consuming)
        return not (self._ended.is_set() and not self._finished)

    def _carry_out(self, delivery: Delivery, then: MessageDisposition) -> None:
        assert self._connection is not None
        current = delivery.generation == self.generation
        if then is not MessageDisposition.LEAVE and self._may_settle(delivery):
            tag = delivery.handle.delivery_tag
            if then is MessageDisposition.REQUEUE and current:
                self._give_back(tag)
                self._inflight.put_backs.add(delivery.message)
            elif self._source is not None:
                self._source.settled(tag)
            if then is MessageDisposition.ACKNOWLEDGE:
                self._connection.default_channel.basic_ack(tag)
            elif then is MessageDisposition.REJECT:
                self._connection.default_channel.basic_reject(tag, requeue=False)
        # A delivery of a lost AMQP connection is the broker's again; its redelivery finds the recorded outcome.
        self._inflight.remove(delivery.token)

    def _give_back(self, tag: Any) -> None:
        assert self._connection is not None
        if self._source is not None:
            self._source.settled(tag)
        give_back(self._connection, tag)

    def _may_settle(self, delivery: Delivery) -> bool:
        """Whether its tag means anything to this connection: AMQP counts tags anew in each, and means others by them."""
        assert self._connection is not None
        return delivery.generation == self.generation or self._connection.transport.driver_type in _LASTING_TAGS
