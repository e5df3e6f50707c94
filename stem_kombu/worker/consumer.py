"""The thread that brings work: it receives, hands over, and acknowledges what others have finished.

A connection belongs to one thread. Other threads leave what they have finished with :meth:`Consumer.finish` and wake this
one. How a broker is read is its transport's matter (:mod:`stem_kombu.transports.base`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.service import Service, pulses_here
from stem_kombu.directive import Directive
from stem_kombu.errors import BrokerError, BrokerRefused, ConfigurationError
from stem_kombu.transports.base import TaskConsumer, Transport
from stem_kombu.transports.outages import Outage
from stem_kombu.worker.ack_queue import AckQueue
from stem_kombu.worker.active_directives import ActiveDirectives
from stem_kombu.worker.deliveries import Delivery, InFlight
from stem_kombu.worker.delivery_events import Action, Do, Event, Facts
from stem_kombu.worker.intake import ConsumedQueues, Intake
from stem_kombu.worker.ownership import Ownership
from stem_kombu.worker.settlement import MessageDisposition
from stem_kombu.worker.transitions import decide

if TYPE_CHECKING:
    from kombu import Message

logger = logging.getLogger(__name__)

#: Messages acknowledged in one round trip.
_TOGETHER = 500
_ACK = MessageDisposition.ACKNOWLEDGE
#: What is known of a delivery that the connection has brought which stands: made once, as it is asked for with each.
_OVER_THIS_CONNECTION = {then: Facts(disposition=then) for then in MessageDisposition}


class Consumer:
    """Consumes task queues in a thread of its own."""

    def __init__(
        self,
        transport: Transport,
        queues: ConsumedQueues,
        inflight: InFlight,
        acks: AckQueue,
        ownership: Ownership,
        directives: ActiveDirectives,
        intake: Intake,
        clock: Clock,
    ) -> None:
        self._declared = queues.declared
        self._malformed, self._scheduled = intake.malformed, intake.scheduled
        self._transport = transport
        self.queues = queues.names
        self._inflight, self._ownership, self._directives = inflight, ownership, directives
        self._paused: Mapping[str, Directive] = {}
        self._closed: frozenset[str] = frozenset()
        self._receive, self._reconnected, self._lost = intake.receive, intake.reconnected, intake.lost
        self._clock, self._allowance = clock, intake.allowance
        #: How many unacknowledged messages may be here.
        self.prefetch = 0
        self._outage = Outage(f"task queues {', '.join(queues.names)} are not consumed", transport.url, clock)
        self._finished, self._pipe = acks, acks.pipe
        self._quiet, self._ended, self._ready, self._resting = (threads.Event() for _ in range(4))
        self._refusal: BrokerRefused | ConfigurationError | None = None
        self._resting.set()
        self._consumed = pulses_here().consumed
        self._background = Service(
            self._run,
            "stem-consumer",
            begin=self._begin,
            wake=self._end_soon,
            end=self._pipe.close,
            period=timeouts.MOVES,
        )
        self._pulse = self._background.pulse

    # -- from any thread ------------------------------------------------------------------------------------------------

    def start(self, timeout: float = 30.0) -> None:
        """Return once the queues are consumed.

        Raises :class:`~stem_kombu.errors.BrokerError` when that has not come about within ``timeout`` seconds,
        or :meth:`stop` was called meanwhile, and :class:`~stem_kombu.errors.ConfigurationError` where a message could be lost.
        """
        stops = self._background.stops
        in_time = self._background.start(stops) and self._ready.wait(timeout)
        if self._background.stops != stops:
            raise BrokerError("stop requested before the task queues were consumed")
        if self._refusal is not None:
            self.stop()
            raise self._refusal
        if not in_time:
            trouble, hint = self.trouble, self._outage.hint  # the thread forgets the one when it ends
            self.stop()
            raise BrokerError(f"the task queues could not be consumed within {timeout:g} s: {trouble}", hint=hint)

    @property
    def trouble(self) -> str | None:
        """The last failure while the queues can't be consumed, else ``None``."""
        return self._outage.trouble

    @property
    def consuming(self) -> bool:
        """Whether the queues are being consumed right now."""
        return not self._resting.is_set()

    def quiesce(self) -> None:
        """Fetch nothing more, and return when nothing is taken in any more (or the thread hangs); acknowledging goes on."""
        self._quiet.set()
        self._finished.wake()
        self._resting.wait(timeouts.QUIESCE)

    def stop(self) -> None:
        """Return when the thread has ended; everything left in the queue before has been carried out."""
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
        self._finished.wake()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._pulse.beat()
            if (wait := self._outage.turn()) > 0:
                self._ended.wait(wait)
                continue
            connected: TaskConsumer | None = None
            try:
                if self._declared:
                    self._transport.declare(self._declared)
                connected = self._transport.consumer(self.queues, clock=self._clock, unreadable=self._malformed)
                self._outage.reached()
                self._serve(connected, self._ownership.connected(connected))
            except self._transport.errors as error:
                if self._transport.adapts_to(error):
                    continue
                if not self._ready.is_set() and (refused := self._transport.refusal(error)) is not None:
                    self._refuse(refused)
                wait = self._outage.failed(error)
            except ConfigurationError as error:
                if not self._ready.is_set():
                    self._refuse(error)
                wait = self._outage.failed(error)
            except Exception as error:
                # The thread's boundary: whatever a driver raises, the worker goes on consuming after a new connection.
                if not self._outage.failures:
                    logger.exception("consuming %s failed", ", ".join(self.queues))
                wait = self._outage.failed(repr(error))
            finally:
                self._resting.set()
                self._finished.wake_transport = None
                self._ownership.disconnected()
                if connected is not None:
                    # Without giving back what still runs here: where tags outlive the connection, the lease is renewed and
                    # the acknowledgement goes out over the next one.
                    connected.close(keep=not self._ended.is_set())
            if not self._ended.is_set():
                self._lost()
            self._ended.wait(wait)
        self._outage.forget()
        while self._finished:  # the broker stayed away until the end, and delivers again what was not acknowledged
            self._inflight.remove(self._finished.take().token)

    def _refuse(self, error: BrokerRefused | ConfigurationError) -> None:
        self._refusal = error  # the start that waits need not
        self._ready.set()

    def _serve(self, connected: TaskConsumer, generation: int) -> None:
        self._finished.wake_transport = connected.wake
        self._allow(connected, consuming=False)
        if not self._quiet.is_set():
            self._pause(connected)
            connected.consume()
            logger.debug("consuming %s over connection %d", ", ".join(self.queues), generation)
            self._resting.clear()
        self._served_at = self._clock.monotonic()
        if generation > 1:
            self._reconnected()
        self._ready.set()
        sweep_at = turned_at = float("-inf")
        waited_at = self._served_at
        while self._keep_serving(connected):
            self._pulse.beat()
            if (now := self._clock.monotonic()) >= sweep_at:
                connected.sweep()
                sweep_at = now + connected.sweep_interval
            if connected.scheduled is not None:
                self._scheduled(connected.scheduled)
            # A stream of short tasks: let some of them end, so that one round trip serves many.
            if (since := now - turned_at) < connected.gather_stocked and since < (gather := self._gather(connected)):
                self._ended.wait(gather - since)
            consuming = not self._resting.is_set()  # this thread alone changes it
            room = self._inflight.room(self.prefetch) if consuming else 0
            self._ownership.fetched_at = waited_at if connected.receives_in_wait else self._clock.monotonic()
            done = self._finished.take_acknowledgements(_TOGETHER)
            try:
                tags = [
                    each.handle.delivery_tag
                    for each in done
                    if self._decided(connected, each, _ACK).do is Do.ACKNOWLEDGE
                ]
                # A broker that pushes may have something to say although there is no room.
                messages = connected.take(room, tags) if room or done or connected.pushes else []
            except BaseException:
                self._finished.put_back(done)
                raise
            self._inflight.remove(*[delivery.token for delivery in done])
            self._worked(bool(messages or done))
            for message in messages:
                self._pulse.beat()
                self._take_in(connected, message, generation)
            if consuming:
                self._consumed.beat()
            turned_at = self._clock.monotonic()
            if len(messages) < room or not (messages or done):
                waited_at = turned_at
                connected.wait(self._pipe.reader, min(1.0, sweep_at - now), more=len(messages) < room)

    def _gather(self, connected: TaskConsumer) -> float:
        return connected.gather_stocked if self._inflight.is_stocked(self.prefetch) else connected.gather

    def _worked(self, something: bool) -> None:
        """Not because it is connected: what is refused to a connection that stands is to be tried ever more rarely."""
        if self._outage.trouble and (something or self._clock.monotonic() - self._served_at > timeouts.CONSUMER_WORKS):
            self._outage.worked()

    def _take_in(self, connected: TaskConsumer, message: Message, generation: int) -> None:
        if self._quiet.is_set():
            # It was under way when a stop was requested, and what still runs here may take long.
            connected.give_back(message.delivery_tag)
            return
        self._receive(message, generation)
        if message.acknowledged:
            connected.settled(message.delivery_tag)

    def _allow(self, connected: TaskConsumer, *, consuming: bool) -> None:
        # To a broker that pushes, what is set aside are messages like others.
        self.prefetch = self._allowance() + (self._inflight.set_aside_count if connected.pushes else 0)
        connected.allow(self.prefetch, len(self._inflight), consuming=consuming)

    def _pause(self, connected: TaskConsumer) -> None:
        self._paused, self._closed = self._directives.paused, self._directives.limits.closed
        connected.pause(self._paused.keys() | self._closed)

    def _keep_serving(self, connected: TaskConsumer) -> bool:
        """Do what other threads have left here; ``False`` when it is time to end."""
        self._pipe.drain()  # first: what is left here after this wakes the thread again
        consuming, given_back = not self._resting.is_set(), False
        if consuming and self._quiet.is_set():
            connected.rest()
            self._resting.set()
            consuming = False
        elif consuming and (
            self._directives.paused is not self._paused or self._directives.limits.closed is not self._closed
        ):
            self._pause(connected)
        # Before anything is given back, or the broker would send it right here again.
        self._allow(connected, consuming=consuming)
        # What is to be acknowledged goes with the next burst, in one round trip.
        while (left := self._finished.first()) is not None and left[1] is not _ACK:
            self._carry_out(connected, *left)
            self._finished.take()  # only now, so that a connection lost in the middle finds it here again
            given_back = True
        if given_back:
            self._allow(connected, consuming=consuming)
        return not (self._ended.is_set() and not self._finished)

    def _carry_out(self, connected: TaskConsumer, delivery: Delivery, then: MessageDisposition) -> None:
        do = self._decided(connected, delivery, then).do
        if do is Do.REQUEUE:
            connected.give_back(delivery.handle.delivery_tag)
            self._inflight.put_backs.add(delivery.message)
        elif do is Do.REJECT:
            connected.reject(delivery.handle.delivery_tag)
        self._inflight.remove(delivery.token)

    def _decided(self, connected: TaskConsumer, delivery: Delivery, then: MessageDisposition) -> Action:
        if delivery.generation == self._ownership.generation:
            facts = _OVER_THIS_CONNECTION[then]
        else:
            facts = Facts(disposition=then, is_current=False, is_tag_valid=connected.keeps_tags)
        return decide(delivery.phase, Event.SETTLED, facts)
