"""What is logged where a task ends. An inline handler shares the process and may have changed its logging: a log that fails
must not keep a task from its end."""

from __future__ import annotations

import logging

from stem_kombu.outcome import Ending, TaskError
from stem_kombu.task import TaskMessage

logger = logging.getLogger(__name__)


def tell_of(message: TaskMessage, kind: Ending, error: TaskError, worker: str) -> None:
    """Log how an attempt ended that did not succeed; raises nothing."""
    try:
        logger.log(
            logging.INFO if kind in (Ending.RETRY, Ending.RELEASED) else logging.ERROR,
            "task %s (%s) attempt %d: %s: %s",
            message.task_id,
            message.name,
            message.attempt,
            error.type,
            error.message,
            extra={"task_id": message.task_id, "worker": worker},
        )
    except Exception:  # noqa: BLE001, S110 - an inline handler may have changed the logging
        pass


def complain(text: str, task_id: str) -> None:
    """Log the exception that is being handled; raises nothing, though an inline handler may have changed the logging."""
    try:
        logger.exception(text, task_id, extra={"task_id": task_id})  # noqa: LOG004 - called in handlers of exceptions only
    except Exception:  # noqa: BLE001, S110 - there is nothing left to say it with
        pass
