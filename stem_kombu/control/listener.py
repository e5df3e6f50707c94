"""The worker's end of the control plane: its own thread, its own connection, answering while all else is busy (G16).

Two queues, one for broadcasts and one for what is meant for this worker alone. The worker counts as reachable only once
a message to itself has come back, because Kombu subscribes at its first drain and not when it is told to consume.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.broker import names
from stem_kombu.broker.abilities import abilities_of
from stem_kombu.broker.connections import SLICE, backoff, connect, pulse
from stem_kombu.broker.failures import shown_url
from stem_kombu.clock import Clock
from stem_kombu.control.admission import Admission
from stem_kombu.control.base import WorkerView
from stem_kombu.control.codec import Unreadable, decode_command, encode_reply
from stem_kombu.control.dispatch import Dispatch
from stem_kombu.control.mailbox import CONTENT_TYPE, ENCODING, acknowledges, body_of
from stem_kombu.control.messages import Command, Reply, ReplyError
from stem_kombu.control.outbox import Outbox, publish_reply
from stem_kombu.errors import BadMessage, BrokerError, BrokerUnavailable

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)

#: Commands that wait (for tasks to settle, for queue depths) at once.
_WAITING = 16
_PREFETCH = 16
_CONNECT_TIMEOUT = 4.0
#: Seconds after which the message to ourselves is sent again, and after which we give up.
_LOOP_AGAIN, _LOOP_TIMEOUT = 0.05, 15.0


class ControlListener:
    """Answers commands for one worker.

    ``commands`` are the application's own; ``roster_now()`` is the roster's clock in seconds since the epoch;
    ``reconnected()`` is called after each connection but the first, because something may have been missed.
    """

    def __init__(
        self,
        template: Connection,
        view: WorkerView,
        *,
        commands: Mapping[str, Callable[..., Any]],
        roster_now: Callable[[], float],
        reconnected: Callable[[], None],
        clock: Clock,
    ) -> None:
        who = view.identity
        self._template: Any = template
        self._namespace, self._worker = who.namespace, who.worker
        self.inbox = names.inbox_name(who.namespace, who.worker)
        self._clock = clock
        self._reconnected = reconnected
        self._dispatch = Dispatch(view, commands)
        self.admission = Admission(who.worker, who.namespace, roster_now, clock)
        self._outbox = Outbox(template, clock=clock)
        self._admission_lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._ready = threading.Event()
        self._token = ""
        self._failure: str | None = None
        self._connection: Any = None
        self._producer: Any = None
        self._ack = acknowledges(str(self._template.transport.driver_type))
        self._declare = self._template.transport.driver_type != "amqp"
        self._wake: Callable[[], object] | None = None

    def start(self) -> None:
        """Return once commands reach this worker. Raises :class:`~stem_kombu.errors.BrokerError` when they don't."""
        if self._thread is not None:
            return
        abilities = abilities_of(self._template, clock=self._clock)
        abilities.require_control(shown_url(self._template))
        self._fanout = abilities.fanout
        self._stopped.clear()
        self._ready.clear()
        self._pool = ThreadPoolExecutor(_WAITING, thread_name_prefix="stem-control-wait")
        self._thread = threading.Thread(target=self._run, name="stem-control", daemon=True)
        self._thread.start()
        if not self._ready.wait(_LOOP_TIMEOUT):
            self.stop()
            raise BrokerUnavailable(
                f"broker {shown_url(self._template)}: a control message to this worker itself did not come back"
                f" within {_LOOP_TIMEOUT:g} s" + (f" ({self._failure})" if self._failure else ""),
                hint="check that the broker lets this user declare queues and a fanout exchange",
            )

    def publish_heartbeat(self, beat: Heartbeat) -> None:
        """Put the beat on the namespace's stream, if the broker is there. Safe from any thread."""
        self._outbox.heartbeat(beat)

    def stop(self) -> None:
        """Return when nothing is answered any more; what was being answered has been."""
        self._stopped.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            if self._wake is not None:
                self._wake()
            thread.join()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        self._outbox.close()

    # -- the thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures, connections = 0, 0
        while not self._stopped.is_set():
            connection = self._template.clone()
            old, self._connection = self._connection, connection
            try:
                connect(connection, _CONNECT_TIMEOUT)
                consumer = self._consume(connection)
                connections += 1
                if old is not None:
                    # Closing waits for a blocking read to end; a broadcast that comes meanwhile is heard already.
                    threading.Thread(target=_forsake, args=(old,), name="stem-control-close", daemon=True).start()
                if connections > 1:
                    self._reconnected()
                failures = 0
                self._serve(connection)
                consumer.cancel()
            except BrokerError as error:
                failures = self._note(failures, error)
            except (*connection.connection_errors, *connection.channel_errors) as error:
                failures = self._note(failures, error)
            except Exception as error:
                # The boundary of the thread that keeps this worker reachable: it must outlive whatever a driver raises.
                logger.exception("the control connection failed in an unexpected way")
                failures = self._note(failures, error)
            if failures and not self._stopped.is_set():
                self._stopped.wait(backoff(failures))
        self._wake = None
        if self._connection is not None:
            _forsake(self._connection)
            self._connection = None

    def _note(self, failures: int, error: Exception) -> int:
        self._failure = str(error) or type(error).__name__
        level = logging.WARNING if failures in (0, 9) else logging.DEBUG
        logger.log(level, "control of worker %s is interrupted: %s", self._worker, self._failure)
        return failures + 1

    def _consume(self, connection: Any) -> Any:
        from kombu import Consumer, Producer

        channel = connection.default_channel
        self._producer = Producer(channel, auto_declare=False)
        queues = [names.inbox_queue(self._namespace, self._worker)]
        if self._fanout:
            queues.append(names.broadcast_queue(self._namespace, self._worker))
        consumer = Consumer(channel, queues, on_message=self._on_message, no_ack=not self._ack, accept=["json"])
        if self._ack:
            consumer.qos(prefetch_count=_PREFETCH)
        consumer.consume()
        self._token = secrets.token_hex(16)
        self._wake = getattr(connection.transport, "wake", None)
        return consumer

    def _serve(self, connection: Any) -> None:
        say_again = 0.0
        looped = False
        while not self._stopped.is_set():
            now = self._clock.monotonic()
            if not looped and self._token and now >= say_again:
                self._speak_to_myself(connection)
                say_again = now + _LOOP_AGAIN
            pulse(connection, clock=self._clock)
            try:
                connection.drain_events(timeout=SLICE)
            except TimeoutError:
                pass
            except connection.connection_errors as error:
                if "timed out" not in str(error).lower():
                    raise
            if not looped and not self._token:
                looped = True
                self._failure = None
                self._ready.set()

    def _speak_to_myself(self, connection: Any) -> None:
        body = json.dumps({"loop": self._token}).encode()
        exchange: Any = names.broadcast_exchange(self._namespace) if self._fanout else ""
        self._producer.publish(
            body,
            exchange=exchange,
            routing_key="" if self._fanout else self.inbox,
            content_type=CONTENT_TYPE,
            content_encoding=ENCODING,
            delivery_mode="transient",
            expiration=5.0,
            retry=False,
        )

    # -- a message --------------------------------------------------------------------------------------------------------

    def _on_message(self, message: Any) -> None:
        if self._ack:
            message.ack()
        body = body_of(message)
        if body.startswith(b'{"loop":'):
            if self._token and self._token.encode() in body:
                self._token = ""
            return
        try:
            command = decode_command(body, known=self._dispatch.knows)
        except Unreadable as error:
            self.admission.drop(error.code, str(error))
            self._reply_here(
                error.reply_to,
                self._dispatch.answer(error.request_id, error.part, {}, ReplyError(error.code, str(error))),
            )
            return
        except BadMessage as error:
            self.admission.drop(error.code, str(error))
            return
        with self._admission_lock:
            admitted = self.admission.admits(command)
            answer = None if admitted else self.admission.answer_to(command)
        if answer is not None:
            self._publish_here(command.reply_to, answer)
        if not admitted:
            return
        if self._dispatch.may_wait(command.order) and self._pool is not None:
            self._pool.submit(self._answer_later, command)
        else:
            body = self._encoded(command, self._dispatch.reply(command))
            with self._admission_lock:
                self.admission.answered(command, body)
            self._publish_here(command.reply_to, body)

    def _answer_later(self, command: Command) -> None:
        try:
            body = self._encoded(command, self._dispatch.reply(command))
            with self._admission_lock:
                self.admission.answered(command, body)
            self._outbox.reply(command.reply_to, body)
        except Exception:
            # The boundary of a pool's thread: nobody looks at the future.
            logger.exception("the reply to control command %r could not be given", command.order.name)

    def _encoded(self, command: Command, reply: Reply) -> bytes:
        try:
            return encode_reply(reply)
        except BadMessage as error:
            problem = ReplyError(error.code, str(error))
            return encode_reply(self._dispatch.answer(command.request_id, command.part, {}, problem))

    def _reply_here(self, reply_to: str, reply: Reply) -> None:
        self._publish_here(reply_to, encode_reply(reply))

    def _publish_here(self, reply_to: str, body: bytes) -> None:
        publish_reply(self._connection, self._producer, reply_to, body, declare=self._declare)


def _forsake(connection: Any) -> None:
    try:
        connection.release()
    except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
        # The connection is broken or half closed; what matters is that nothing uses it any more.
        logger.debug("closing a control connection: %r", error)
