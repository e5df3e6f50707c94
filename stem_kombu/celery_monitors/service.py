"""The face that a Stem worker shows to Celery's tools: a thread with a connection of its own, beside everything else.

Monitors are not worth a task: whatever fails here is logged once and tried again, and no task waits for it.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kombu.connection import Connection
from kombu.entity import Exchange
from kombu.exceptions import KombuError
from kombu.messaging import Producer
from kombu.pidbox import Mailbox

from stem_kombu import timeouts
from stem_kombu.celery_monitors.commands import Panel
from stem_kombu.celery_monitors.events import Events, node_name
from stem_kombu.celery_monitors.pidbox import REPLY_EXCHANGE, PidboxServer
from stem_kombu.celery_monitors.verbs import Changes
from stem_kombu.clock import Clock
from stem_kombu.concurrency.service import Service
from stem_kombu.control.protocol.codec import LARGEST_COMMAND
from stem_kombu.control.server.worker_view import WorkerView
from stem_kombu.drop_counter import DropCounter
from stem_kombu.errors import BadMessage
from stem_kombu.messages.decompression import limit_decompression
from stem_kombu.transports.connections import connect, drop_idle, release
from stem_kombu.transports.errors import shown_url
from stem_kombu.transports.generic.control import drain
from stem_kombu.transports.outages import Outage

if TYPE_CHECKING:
    from kombu import Message
    from kombu.pidbox import Node

logger = logging.getLogger(__name__)

#: Events in one message.
_BATCH = 200


class CeleryMonitorService:
    """Answers Celery's remote control and sends Celery's events. ``start()`` and ``stop()`` may each be called twice.

    ``drops`` counts the messages that can't be read or are refused. Events go to an exchange of the type ``exchange``:
    Celery's own is a topic exchange, but a fanout where Kombu emulates exchanges. In a fleet with keys the
    service refuses what would change something.
    """

    def __init__(
        self,
        template: Connection,
        view: WorkerView,
        names: Callable[[], Sequence[str]],
        changes: Changes,
        events: Events,
        *,
        clock: Clock,
        drops: DropCounter,
        exchange: str,
    ) -> None:
        self._exchange = exchange
        who = view.identity
        self._template = template
        self._view = view
        self._clock = clock
        self.node = node_name(who.worker, who.hostname)
        self.events = events
        self._next_beat = 0.0
        self._outage = Outage(f"Celery's monitors don't see worker {self.node}", shown_url(template), clock)
        self._complaints = drops
        refuse = self._complaints.drop if events.closed else None
        self._panel = Panel(self.node, view, names, changes, self._beat_soon, refuse=refuse)
        self._stopped = threading.Event()
        self._tried = threading.Event()
        self._background = Service(self._run, "stem-celery-face", begin=self._stopped.clear, wake=self._stopped.set)

    def start(self) -> None:
        """Return when commands are received, or the broker could not be reached: one sent to a ready worker is obeyed."""
        self._background.start()
        self._tried.wait(timeouts.MONITOR_CONNECT)

    def stop(self) -> None:
        """Return when monitors were told that this worker leaves, or could not be."""
        self._background.stop(5.0)

    def _run(self) -> None:
        while not self._stopped.is_set():
            if (wait := self._outage.turn()) > 0:
                self._stopped.wait(wait)
                continue
            connection = self._template.clone()
            try:
                connect(connection, timeouts.MONITOR_CONNECT)
                self._outage.reached()
                producer = self._opened(connection)
                self._serve(connection, producer)
            except Exception as error:  # noqa: BLE001 - whatever a driver raises, tasks are more important
                # The boundary of a thread that nothing depends on.
                wait = self._outage.failed(error)
            finally:
                self._tried.set()
                _released(connection)
            self._stopped.wait(wait)
        self._outage.forget()

    def _opened(self, connection: Connection) -> object:
        """What sends events, once monitors were told that this worker is there, and are heard."""
        channel = connection.default_channel
        exchange = Exchange("celeryev", type=self._exchange)
        producer = Producer(channel, exchange=exchange, serializer="json", auto_declare=True)
        # On Redis a binding stays for ever unless its queue expires; RabbitMQ deletes the queue with its connection.
        expires = timeouts.MONITOR_EXPIRES if self._exchange == "fanout" else None
        mailbox = Mailbox("celery", type="fanout", accept=["json"], serializer="json", queue_expires=expires)(
            connection
        )
        node = mailbox.Node(self.node, state=None, channel=limit_decompression(connection.channel(), LARGEST_COMMAND))
        self._consume(node)
        drop_idle(connection)
        self._send_of_worker(producer, "worker-online")
        return producer

    def _serve(self, connection: Connection, producer: object) -> None:
        self._next_beat = self._clock.monotonic() + timeouts.CELERY_HEARTBEAT
        wait = timeouts.MONITOR_FIRST_DRAIN
        while not self._stopped.is_set():
            drain(connection, wait, clock=self._clock, malformed=self._on_garbage)
            self._tried.set()
            wait = timeouts.MONITOR_DRAIN
            self._send_of_tasks(producer)
            if self._clock.monotonic() >= self._next_beat:
                self._next_beat = self._clock.monotonic() + timeouts.CELERY_HEARTBEAT
                self._send_of_worker(producer, "worker-heartbeat")
                drop_idle(connection, keep=connection.default_channel)  # what Kombu opens to renew a binding
                self._outage.worked()
        self._send_of_tasks(producer)
        self._send_of_worker(producer, "worker-offline")

    def _consume(self, node: Node) -> None:
        board = PidboxServer(
            self.node,
            self._panel.handlers(),
            lambda answer, routing_key, ticket: node.reply(answer, REPLY_EXCHANGE, routing_key, ticket),
        )

        def on_message(message: Message) -> None:
            try:
                board.heard(message.payload)
            except BadMessage as error:
                self._complaints.drop(error.code, str(error))
            except (KombuError, ValueError, RecursionError) as error:
                # Of another content type than JSON, or JSON that isn't any.
                self._complaints.drop("bad-message", repr(error))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a node of this name was here before is no news after a reconnect
            node.Consumer(on_message=on_message, on_decode_error=lambda _, error: self._on_garbage(error)).consume()

    def _on_garbage(self, error: Exception) -> None:
        self._complaints.drop("envelope", repr(error))

    def _beat_soon(self) -> None:
        """A monitor that has just come asks for a heartbeat, so that it need not wait to know us."""
        self._next_beat = 0.0

    def _send_of_worker(self, producer: object, kind: str) -> None:
        facts = self._view.facts()
        event = self.events.of_worker(
            kind, active=facts.in_flight, processed=facts.totals.get("started", 0), load=facts.load_avg
        )
        self._publish(producer, event, kind.replace("-", "."))

    def _send_of_tasks(self, producer: object) -> None:
        events = self.events.taken()
        try:
            for start in range(0, len(events), _BATCH):
                self._publish(producer, events[start : start + _BATCH], "task.multi")
        except BaseException:
            self.events.put_back(events)
            raise

    def _publish(self, producer: Any, body: object, routing_key: str) -> None:
        producer.publish(
            body, routing_key=routing_key, headers={"hostname": self.node}, delivery_mode="transient", retry=False
        )


def _released(connection: Connection) -> None:
    try:
        release(connection)
    except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
        logger.debug("closing the connection to Celery's monitors: %r", error)
        connection.collect()  # or the broker would keep for it what is exclusively its own
