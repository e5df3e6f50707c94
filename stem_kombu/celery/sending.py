"""The time of sending, in a header of each task that an application with Stem sends: Celery's own messages have none.

A rule that revokes what was sent until now needs it. A retry keeps the time of the first sending.
"""

from __future__ import annotations

from typing import Any

from celery.app.amqp import AMQP
from kombu.utils.imports import symbol_by_name

from stem_kombu.clock import SYSTEM, isoformat
from stem_kombu.messages.encoding import HEADER_SENT_AT


class StampedSending:
    """Goes before Celery's ``AMQP`` among the bases of a class."""

    def as_task_v2(self, *given: Any, **options: Any) -> Any:
        """See :meth:`celery.app.amqp.AMQP.as_task_v2`."""
        message = super().as_task_v2(*given, **options)  # type: ignore[misc]
        message.headers.setdefault(HEADER_SENT_AT, isoformat(SYSTEM.utcnow()))
        return message


class StampedAMQP(StampedSending, AMQP):  # type: ignore[misc]  # Celery publishes no types
    """Celery's own, which stamps what it sends."""


def stamped(amqp: Any) -> type:
    """That class of an ``AMQP``, or its name, as one that stamps."""
    base: type = symbol_by_name(amqp)
    return base if issubclass(base, StampedSending) else type(base.__name__, (StampedSending, base), {})


def stamp_by(amqp: Any) -> None:
    """Let an ``AMQP`` stamp that an application has made already: its queues may have been declared by hand."""
    if not isinstance(amqp, StampedSending):
        amqp.__class__ = stamped(type(amqp))
        amqp.task_protocols = {**amqp.task_protocols, 2: amqp.as_task_v2}
        amqp.__dict__.pop("create_task_message", None)
