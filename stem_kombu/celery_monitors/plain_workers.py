"""Celery workers without Stem, found as Celery's own tools find them: through Celery's mailbox.

They obey ``revoke`` in their memory, and forget it when they end.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from kombu.entity import Exchange
from kombu.pidbox import Mailbox

from stem_kombu import timeouts
from stem_kombu.errors import StemError
from stem_kombu.settings import Settings
from stem_kombu.transports.connections import broker_connection, connect, release
from stem_kombu.transports.registry import open_transport

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)

#: Celery's mailbox.
_NAMESPACE = "celery"
#: Ids in one message.
_CHUNK = 1000


class PlainWorkers:
    """Celery's mailbox at the broker of these settings. Each call connects for itself.

    Nothing is found, and nothing is made at the broker, where Celery has no mailbox: where its transport does not send to all
    workers at once, and where no worker of Celery has ever been.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def names(self, stem: Collection[str]) -> list[str]:
        """The Celery workers that answer and are not among ``stem``, ids of workers with Stem.

        Raises :class:`~stem_kombu.errors.StemError` and what Kombu's drivers raise.
        """
        answers = self._ask("ping", {}, None)
        found = {name for answer in answers if isinstance(answer, dict) for name in answer}
        return sorted(name for name in found if not _is_one_of(name, stem))

    def revoke(self, task_ids: Sequence[str], workers: Sequence[str]) -> None:
        """Have these workers put the ids into their memory, and forget them when they end. Raises as :meth:`names`."""
        for start in range(0, len(task_ids), _CHUNK):
            self._ask("revoke", {"task_id": list(task_ids[start : start + _CHUNK])}, list(workers))

    def _ask(self, method: str, arguments: dict[str, object], workers: list[str] | None) -> list[object]:
        connection = broker_connection(self._settings)
        if open_transport(connection).capabilities.monitor_exchange is None:
            return []
        connect(connection, timeouts.PLAIN_WORKERS_CONNECT)
        try:
            mailbox = Mailbox(
                _NAMESPACE,
                type="fanout",
                accept=["json"],
                serializer="json",
                queue_expires=timeouts.PLAIN_WORKERS_EXPIRES,
                reply_queue_expires=timeouts.PLAIN_WORKERS_EXPIRES,
            )(connection)
            if not _is_there(connection, mailbox.exchange):
                return []
            channel = connection.channel()
            try:
                if workers is None:
                    return list(
                        mailbox.multi_call(method, arguments, timeout=timeouts.PLAIN_WORKERS_WINDOW, channel=channel)
                        or ()
                    )
                return list(
                    mailbox.call(workers, method, arguments, timeout=timeouts.PLAIN_WORKERS_WINDOW, channel=channel)
                    or ()
                )
            finally:
                # With its binding, so that no late answer makes the queue again.
                mailbox.reply_queue(channel).delete()
        finally:
            release(connection)


def plain_workers(
    settings: Settings, stem: Collection[str], revoked: Sequence[str] = ()
) -> tuple[list[str], str | None]:
    """As :meth:`PlainWorkers.names`, and why they could not be asked. They revoke ``revoked``, in their memory."""
    try:
        mailbox = PlainWorkers(settings)
        if (found := mailbox.names(stem)) and revoked:
            mailbox.revoke(revoked, found)
        return found, None
    except StemError as error:
        return [], str(error)
    except Exception as error:
        # The boundary to Kombu's mailbox.
        logger.debug("Celery's mailbox", exc_info=error)
        return [], f"{type(error).__name__}: {error}"


def _is_there(connection: Connection, exchange: Exchange) -> bool:
    """Whether a worker of Celery's, or one that monitors see as such, has its mailbox at that broker."""
    channel = connection.channel()
    try:
        if hasattr(channel, "get_table"):  # Kombu's emulation: the queues that are bound
            return bool(channel.get_table(exchange.name))
        Exchange(exchange.name, type=exchange.type, passive=True, durable=exchange.durable)(channel).declare()
    except (*connection.channel_errors, KeyError):
        return False
    return True


def _is_one_of(name: str, stem: Collection[str]) -> bool:
    # A worker of Stem's own is known to Celery's tools as its id or as id@host.
    return any(name == worker or name.startswith(f"{worker}@") for worker in stem)
