"""The time of sending, in a header of each task that an application with Stem sends: Celery's own messages have none.

A rule that revokes what was sent until now needs it. A retry keeps the time of the first sending, and what follows a task in its
canvas was sent when that was: so a rule stops a chain between two of its tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import current_task
from celery.app.amqp import AMQP
from kombu.utils.imports import symbol_by_name

from stem_kombu.celery.canvas_members import members
from stem_kombu.clock import SYSTEM, isoformat
from stem_kombu.messages.encoding import HEADER_SENT_AT


class StampedSending:
    """Goes before Celery's ``AMQP`` among the bases of a class."""

    def as_task_v2(self, *given: object, **options: object) -> object:
        """See :meth:`celery.app.amqp.AMQP.as_task_v2`."""
        message = super().as_task_v2(*given, **options)  # type: ignore[misc]
        headers = message.headers
        if HEADER_SENT_AT not in headers:
            before = _followed(str(headers.get("id")))
            sent = isoformat(SYSTEM.utcnow()) if before is None else (before.headers or {}).get(HEADER_SENT_AT)
            if sent is not None:  # of what follows a task without a time nothing is known either
                headers[HEADER_SENT_AT] = sent
        return message


def _followed(task_id: str) -> Any:
    """The request of the task that runs here, where the task of that id follows it in its canvas; else ``None``."""
    request = current_task.request if current_task else None
    if request is None:
        return None
    chain = request.__dict__.get("stem_chain", request.chain)  # as it was when the task began
    if not (parts := [part for part in (chain, request.callbacks, request.chord) if part]):
        return None
    # Found once for all of a group, each member of which is sent by itself.
    if (ids := request.__dict__.get("stem_followers")) is None:
        elements = [element for part in parts for element in ([part] if isinstance(part, Mapping) else part)]
        ids = {(member.get("options") or {}).get("task_id") for element in elements for member in members(element)}
        request.stem_followers = ids
    return request if task_id in ids else None


class StampedAMQP(StampedSending, AMQP):  # type: ignore[misc]  # Celery publishes no types
    """Celery's own, which stamps what it sends."""


def stamped(amqp: object) -> type:
    """That class of an ``AMQP``, or its name, as one that stamps."""
    base: type = symbol_by_name(amqp)
    return base if issubclass(base, StampedSending) else type(base.__name__, (StampedSending, base), {})


def stamp_by(amqp: AMQP) -> None:
    """Let an ``AMQP`` stamp that an application has made already: its queues may have been declared by hand."""
    if not isinstance(amqp, StampedSending):
        amqp.__class__ = stamped(type(amqp))
        amqp.task_protocols = {**amqp.task_protocols, 2: amqp.as_task_v2}
        amqp.__dict__.pop("create_task_message", None)
