"""Has the messages of tasks that failed for good kept, so that an operator can have them run again."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from stem_kombu.backends.failed import LARGEST, FailedMessage, FailedMessages
from stem_kombu.backends.registry import open_failed_messages
from stem_kombu.errors import StoreError
from stem_kombu.messages.keeping import kept_text
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.settings import Settings
from stem_kombu.task import TaskMessage

logger = logging.getLogger(__name__)


class FailedKeeper:
    """Keeps messages of one namespace for ``life`` seconds.

    That a message can't be kept stops nothing: the task's record is there, and its message is acknowledged all the same. The
    log says so, once until it works again.
    """

    def __init__(self, place: FailedMessages, namespace: str, life: float) -> None:
        self._place = place
        self._namespace = namespace
        self._life = life
        self._fails = False

    def keep(self, told: Iterable[tuple[TaskMessage, TaskRecord]]) -> None:
        """Keep the messages whose records say that the task failed, as far as they are not too large."""
        kept = [
            FailedMessage(message.task_id, text)
            for message, record in told
            if record.state is TaskState.FAILED and (text := kept_text(message, most=LARGEST)) is not None
        ]
        if not kept:
            return
        try:
            self._place.keep(self._namespace, kept, self._life)
            self._fails = False
        except StoreError as error:
            if not self._fails:
                logger.warning(
                    "messages of failed tasks can't be kept, so `stem task retry` won't find them: %s", error
                )
            self._fails = True

    def close(self) -> None:
        """Let connections go."""
        self._place.close()


def open_failed_keeper(settings: Settings) -> FailedKeeper | None:
    """What keeps messages in the result backend of these settings, which it opens when a task first fails; ``None`` where there
    is no backend, and where it is switched off."""
    source = settings.backend
    if source is None or not settings.keep_failed:
        return None
    place = open_failed_messages(source.value, name=source.name, tls=settings.tls)
    return FailedKeeper(place, settings.namespace, settings.keep_failed)
