"""Celery's own ``revoke`` in a solo pool: read in a thread, since the worker's event loop waits for the task that it runs.

Celery reads the same command once the task has ended; it finds it obeyed and stored.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from kombu.exceptions import KombuError
from kombu.messaging import Consumer

from stem_kombu import timeouts
from stem_kombu.celery_monitors.pidbox import PidboxServer
from stem_kombu.clock import Clock
from stem_kombu.concurrency.service import Service
from stem_kombu.errors import BadMessage
from stem_kombu.transports.connections import connect, release
from stem_kombu.transports.errors import shown_url
from stem_kombu.transports.generic.control import drain
from stem_kombu.transports.outages import Outage

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Connection, Message

logger = logging.getLogger(__name__)


class NativeRevokes:
    """Receives what Celery's clients revoke, on a queue of its own beside Celery's, and hands it to ``obey(ids, terminate)`` and
    ``obey_stamps(headers, terminate)``.

    ``app`` is the Celery application, ``node`` the name of its worker. May be started and stopped more than once.
    """

    def __init__(
        self,
        app: Celery,
        node: str,
        obey: Callable[[Sequence[str], bool], object],
        obey_stamps: Callable[[object, bool], object],
        *,
        clock: Clock,
    ) -> None:
        self._app = app
        self._obey, self._obey_stamps = obey, obey_stamps
        self._clock = clock
        self._queue = f"stem-{node}"
        verbs: dict[str, Callable[..., object]] = {"revoke": self._revoke, "terminate": self._terminate}
        verbs["revoke_by_stamped_headers"] = self._revoke_stamps
        self._server = PidboxServer(node, verbs, lambda *_: None)
        template = app.connection_for_read()
        self._outage = Outage("Celery's own revokes are read only between tasks", shown_url(template), clock)
        self._stopped = threading.Event()
        #: Set once revokes are received, or could not be.
        self._tried = threading.Event()
        self._background = Service(self._run, "stem-celery-revokes", begin=self._begin, wake=self._stopped.set)

    def start(self) -> None:
        """Return when revokes are received, or the broker could not be reached: one sent to a ready worker is obeyed at once."""
        self._background.start()
        self._tried.wait(timeouts.NATIVE_REVOKE_CONNECT)

    def stop(self) -> None:
        self._background.stop(5.0)

    def _begin(self) -> None:
        self._stopped.clear()
        self._tried.clear()

    def _run(self) -> None:
        while not self._stopped.is_set():
            wait = self._outage.turn()
            if wait <= 0:
                connection = self._app.connection_for_read()
                try:
                    connect(connection, timeouts.NATIVE_REVOKE_CONNECT)
                    self._serve(connection)
                except Exception as error:  # noqa: BLE001 - whatever a driver raises; Celery reads the command later
                    # The boundary of a thread that nothing depends on.
                    wait = self._outage.failed(error)
                finally:
                    self._tried.set()
                    _let_go(connection)
            self._stopped.wait(max(0.0, wait))
        self._outage.forget()

    def _serve(self, connection: Connection) -> None:
        mailbox = self._app.control.mailbox
        channel = connection.default_channel
        queue = mailbox.get_queue(self._queue)(channel)
        with Consumer(channel, [queue], on_message=self._on_message, accept=mailbox.accept, no_ack=True):
            self._outage.worked()
            while not self._stopped.is_set():
                drain(
                    connection,
                    timeouts.NATIVE_REVOKE_DRAIN,
                    clock=self._clock,
                    malformed=partial(logger.debug, "%r"),
                )
                self._tried.set()  # on Redis Kombu subscribes with the first drain, not with the consumer

    def _on_message(self, message: Message) -> None:
        try:
            self._server.heard(message.payload)
        except BadMessage:
            pass  # another command: Celery's own
        except (KombuError, ValueError, RecursionError) as error:
            logger.debug("a message of Celery's remote control can't be read: %r", error)

    def _revoke(self, _: object, task_id: Any, terminate: Any = False, **__: object) -> None:
        self._obey([task_id] if isinstance(task_id, str) else [str(one) for one in task_id or ()], bool(terminate))

    def _terminate(self, _: object, signal: object = None, task_id: object = (), **__: object) -> None:
        self._revoke(_, task_id, terminate=True)

    def _revoke_stamps(self, _: object, headers: object = (), terminate: object = False, **__: object) -> None:
        self._obey_stamps(headers, bool(terminate))


def _let_go(connection: Connection) -> None:
    try:
        release(connection)
    except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
        logger.debug("closing the connection for Celery's revokes: %r", error)
        connection.collect()
