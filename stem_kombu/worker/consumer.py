"""The connection that brings work: consume, hand over, and acknowledge what others have finished.

A Kombu connection belongs to one thread. Whoever finishes a delivery leaves it with :meth:`Consumer.finish` and wakes
that thread. Transports with an event loop of their own (AMQP, Redis) run under Kombu's hub, where a pipe wakes them at
once; the others are drained in short slices.
"""

from __future__ import annotations

import collections
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from kombu import Connection
from kombu import Consumer as KombuConsumer
from kombu.asynchronous import Hub

from stem_kombu.broker.connections import backoff, connect, pulse
from stem_kombu.broker.queues import declared_task_queue, give_back
from stem_kombu.clock import Clock
from stem_kombu.errors import BrokerError
from stem_kombu.worker.inflight import Delivery, InFlight
from stem_kombu.worker.settlement import Then

logger = logging.getLogger(__name__)

#: Seconds of one blocking read where nothing can interrupt it: the longest that an acknowledgement waits there.
_SLICE = 0.02
_CONNECT_TIMEOUT = 4.0
#: Drivers that Kombu's hub can run, and whose delivery tags outlive a connection.
_HUB_DRIVERS = frozenset({"amqp", "redis"})
_LASTING_TAGS = frozenset({"redis"})
#: AMQP's codes for what a queue or a broker does not do.
_REFUSED = frozenset({540, 541})


class Consumer:
    """Consumes task queues in a thread of its own.

    ``allowance()`` says how many messages may be here, and is asked in every turn.
    ``receive(message, generation)`` is called for each delivery, in that thread; ``generation`` numbers the connections.
    ``reconnected`` is called, in that thread, after each connection but the first.
    """

    def __init__(
        self,
        connection: Connection,
        queues: Sequence[str],
        inflight: InFlight,
        *,
        allowance: Callable[[], int],
        receive: Callable[[Any, int], None],
        reconnected: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._template = connection
        self.queues = tuple(queues)
        self._inflight = inflight
        self._receive = receive
        self._reconnected = reconnected
        self._clock = clock
        self._allowance = allowance
        #: How many unacknowledged messages the broker was told to leave here at most.
        self.prefetch = 0
        self._global_prefetch = True
        self.generation = 0
        #: Whether the queues are being consumed right now.
        self.consuming = False
        #: The last failure while the broker is away, else ``None``.
        self.trouble: str | None = None
        self._finished: collections.deque[tuple[Delivery, Then]] = collections.deque()
        self._wake_reader, self._wake_writer = -1, -1
        self._wake_transport: Callable[[], object] | None = None
        self._quiet = threading.Event()
        self._ended = threading.Event()
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._consumer: KombuConsumer | None = None

    # -- from any thread ------------------------------------------------------------------------------------------------

    def start(self, timeout: float = 30.0) -> None:
        """Return once the queues are consumed.

        Raises :class:`~stem_kombu.errors.BrokerError` when that has not come about within ``timeout`` seconds.
        """
        if self._thread is not None:
            return
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._quiet.clear()
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, name="stem-consumer", daemon=True)
        self._thread.start()
        if not self._ready.wait(timeout):
            self.stop()
            raise BrokerError(f"the task queues could not be consumed within {timeout:g} s: {self.trouble}")

    def finish(self, delivery: Delivery, then: Then) -> None:
        """Acknowledge, give back or let go of the delivery, soon, in the thread that may."""
        self._finished.append((delivery, then))
        self.wake()

    def wake(self) -> None:
        """Make the thread look at what there is to do, now."""
        if self._wake_transport is not None:
            self._wake_transport()
        try:
            os.write(self._wake_writer, b"x")
        except (BlockingIOError, OSError):
            pass  # The pipe is full, so the thread is about to wake anyway; or it has ended.

    def quiesce(self) -> None:
        """Fetch nothing more; acknowledging goes on."""
        self._quiet.set()
        self.wake()

    def stop(self) -> None:
        """Return when the thread has ended; everything handed to :meth:`finish` before has been carried out."""
        self._quiet.set()
        self._ended.set()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self.wake()
        thread.join()
        os.close(self._wake_reader)
        os.close(self._wake_writer)
        self._wake_reader, self._wake_writer = -1, -1
        self._ready.clear()

    # -- the thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._ended.is_set():
            connection = self._template.clone()
            try:
                connect(connection, _CONNECT_TIMEOUT)
                self.generation += 1
                failures = 0
                self._serve(connection)
            except (BrokerError, *connection.connection_errors, *connection.channel_errors) as error:
                if getattr(error, "reply_code", None) in _REFUSED and self._global_prefetch:
                    self._global_prefetch = False  # a quorum queue, or a broker where global prefetch is switched off
                    continue
                failures += 1
                self.trouble = str(error) or type(error).__name__
                log = logger.warning if failures in (1, 10) else logger.debug
                log("task queues %s are not consumed: %s; trying again", ", ".join(self.queues), self.trouble)
            except Exception:
                # The thread's boundary: whatever a driver raises, the worker goes on consuming after a new connection.
                failures += 1
                self.trouble = "unexpected error, see the log"
                logger.exception("consuming %s failed; trying again", ", ".join(self.queues))
            finally:
                self.consuming = False
                self._wake_transport = None
                self._forsake(connection)
            self._ended.wait(backoff(failures) if failures else 0)
        self._drop_the_rest()

    def _serve(self, connection: Connection) -> None:
        self._connection = connection
        channel = connection.default_channel
        generation = self.generation
        self._consumer = KombuConsumer(
            channel,
            [declared_task_queue(connection, queue) for queue in self.queues],
            on_message=lambda message: self._receive(message, generation),
            accept=["json"],
            auto_declare=False,
        )
        self._apply_prefetch(force=True)
        if not self._quiet.is_set():
            self._consumer.consume()
            self.consuming = True
        self.trouble = None
        if generation > 1:
            self._reconnected()
        self._ready.set()
        if connection.transport.driver_type in _HUB_DRIVERS and connection.transport.implements.asynchronous:
            self._serve_by_hub(connection)
        else:
            self._serve_by_slices(connection)

    def _serve_by_hub(self, connection: Connection) -> None:
        hub = Hub()
        try:
            # Kombu's event-loop callbacks swallow what isn't listed here, and a lost connection would go unnoticed.
            hub.propagate_errors = (*connection.connection_errors, *connection.channel_errors)
            connection.transport.register_with_event_loop(connection.connection, hub)
            hub.add_reader(self._wake_reader, self._drain_wakes)
            hub.call_repeatedly(1.0, pulse, connection)
            loop = hub.create_loop()
            while self._keep_serving():
                try:
                    next(loop)
                except StopIteration:
                    loop = hub.create_loop()
        finally:
            hub.remove_reader(self._wake_reader)
            hub.close()

    def _serve_by_slices(self, connection: Connection) -> None:
        self._wake_transport = getattr(connection.transport, "wake", None)
        while self._keep_serving():
            self._drain_wakes()
            pulse(connection, clock=self._clock)
            try:
                connection.drain_events(timeout=1.0 if self._wake_transport is not None else _SLICE)
            except TimeoutError:
                continue

    def _keep_serving(self) -> bool:
        """Do what other threads have left here; ``False`` when it is time to end."""
        if self._quiet.is_set() and self.consuming:
            assert self._consumer is not None
            self._consumer.cancel()
            self.consuming = False
        # Before anything is given back, or the broker would send it right here again.
        self._apply_prefetch()
        while self._finished:
            delivery, then = self._finished[0]
            self._carry_out(delivery, then)
            # Only now, so that a connection lost in the middle finds it here again.
            self._finished.popleft()
        self._apply_prefetch()
        return not (self._ended.is_set() and not self._finished)

    def _carry_out(self, delivery: Delivery, then: Then) -> None:
        assert self._connection is not None
        current = delivery.generation == self.generation
        if then is not Then.LEAVE and (current or self._connection.transport.driver_type in _LASTING_TAGS):
            tag = delivery.handle.delivery_tag
            if then is Then.ACKNOWLEDGE:
                self._connection.default_channel.basic_ack(tag)
            elif then is Then.REJECT:
                self._connection.default_channel.basic_reject(tag, requeue=False)
            elif current:
                give_back(self._connection, tag)
        # A delivery of a lost AMQP connection is the broker's again; its redelivery finds the recorded outcome.
        self._inflight.remove(delivery.token)

    def _apply_prefetch(self, force: bool = False) -> None:
        allowance = self._allowance()
        if not force and allowance == self.prefetch:
            return
        assert self._consumer is not None
        # To RabbitMQ a count that is not global is a matter of each consumer, and fixed when it begins to consume.
        again = not self._global_prefetch and self.consuming
        if again:
            self._consumer.cancel()
        self._consumer.qos(prefetch_count=allowance, apply_global=self._global_prefetch)
        if again:
            self._consumer.consume()
        self.prefetch = allowance

    def _drain_wakes(self) -> None:
        try:
            while os.read(self._wake_reader, 4096):
                pass
        except BlockingIOError:
            pass

    def _forsake(self, connection: Connection) -> None:
        """Let a connection go without giving back what still runs here: where tags outlive the connection, the lease is
        renewed and the acknowledgement goes out over the next one."""
        self._connection = self._consumer = None
        stopping = self._ended.is_set()
        try:
            for channel in list(getattr(connection.connection, "channels", None) or ()) if connection.connected else ():
                if not stopping and hasattr(channel, "do_restore"):
                    channel.do_restore = False
            connection.release()
        except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
            # The connection is broken or half closed; what matters is that nothing uses it any more.
            logger.debug("closing a broker connection: %r", error)

    def _drop_the_rest(self) -> None:
        """The broker stayed away until the end: what could not be acknowledged is redelivered."""
        while self._finished:
            delivery, _ = self._finished.popleft()
            self._inflight.remove(delivery.token)
