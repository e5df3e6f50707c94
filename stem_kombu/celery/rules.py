"""Rules on a Celery worker: its requests as selectors see them, and what a rule says of each (G29).

A rule is asked when a request comes and before it is handed to the pool; what runs stops for it at its next checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from celery.worker import state

from stem_kombu.agent.active_rules import ActiveRules
from stem_kombu.celery.held_requests import HeldRequests
from stem_kombu.control.server.worker_view import SelectedTask
from stem_kombu.control.stamped_rules import StampDraft
from stem_kombu.errors import BadMessage
from stem_kombu.fields import FieldError, moment
from stem_kombu.messages.celery_canvas import celery_origin
from stem_kombu.messages.decoding import own_headers
from stem_kombu.messages.encoding import HEADER_ENQUEUED_AT, HEADER_SENT_AT
from stem_kombu.revocation import Revocation
from stem_kombu.rule import Rule
from stem_kombu.selector import Selector, sent_at
from stem_kombu.task import TaskMessage

if TYPE_CHECKING:
    from celery import Task
    from celery.worker.request import Request


class GuestRules:
    """Of one worker. ``now()`` is the store's time."""

    def __init__(self, requests: HeldRequests, now: Callable[[], datetime]) -> None:
        self._requests = requests
        self.active = ActiveRules(now)

    def take(self, rules: Iterable[Rule]) -> tuple[list[Revocation], list[str]]:
        """Obey these as well; what the rules say of tasks that are here, and the ids of those that no rule strikes any more."""
        given = list(rules)
        over = [rule for rule in given if rule.over]
        if not self.active.take(given) and not over:
            return [], []
        _forget_stamps(over)
        keys = {rule.key for rule in over}
        found: list[Revocation] = []
        free: list[str] = []
        for request in self._tasks():
            if let_go := request.stem_struck_by in keys:
                request.stem_struck = request.stem_struck_by = None
            if self.come(request):
                found.append(request.stem_struck)
            elif let_go:
                free.append(request.id)
        return found, free

    def versions(self, rules: Iterable[Rule]) -> list[int]:
        """The versions of those that count now."""
        given = {rule.version for rule in rules}
        return [rule.version for rule in self.active.live if rule.version in given]

    def come(self, request: Request) -> bool:
        """Whether a rule strikes the request now. It stays struck when the rule ends, unless the rule is taken back."""
        if not self.active.live or (found := self.active.striking(task_of(request))) is None:
            return False
        request.stem_struck, request.stem_struck_by = found.revocation(request.id), found.key
        return True

    def selected(self, selector: Selector, before: datetime, now: float) -> list[SelectedTask]:
        """The tasks here that match and were sent before, or whose sender wrote no time; ``now`` as Celery notes a start."""
        waiting = {id(request) for request in self._requests.waiting()}
        found = []
        for request in self._tasks():
            task = task_of(request)
            if not selector.matches(task):
                continue
            sent = sent_at(task)
            if sent is not None and sent >= before:
                continue
            runs = request in state.active_requests
            phase = "running" if runs else "held" if id(request) in waiting else "reserved"
            runtime = max(0.0, now - float(request.time_start or now)) if runs else None
            found.append(SelectedTask(request.id, task.attempt, phase, sent is not None, runtime))
        return found

    def stamped(self, drafts: Sequence[StampDraft], namespace: str, now: datetime) -> list[Revocation]:
        """What these say of the tasks here, stored or not."""
        return [
            Revocation(namespace, request.id, 0, now, draft.terminate, draft.reason, draft.requested_by)
            for request in self._tasks()
            for draft in drafts
            if draft.selector.matches(task_of(request))
        ]

    def _tasks(self) -> Iterator[Task]:
        for request in self._requests.requests():
            if hasattr(request, "stem_struck"):
                yield request


def task_of(request: Request) -> TaskMessage:
    """A request of Celery's as the task that a selector looks at."""
    held: TaskMessage | None = request.__dict__.get("stem_task")
    if held is None:
        held = request.stem_task = _decoded(request)
    return held


def _decoded(request: Request) -> TaskMessage:
    headers = request.request_dict
    own, dated = {}, HEADER_ENQUEUED_AT if HEADER_ENQUEUED_AT in headers else HEADER_SENT_AT
    sent = None
    try:
        own = own_headers(request.message.headers or {}, signed=False)
        sent = None if headers.get(dated) is None else moment(headers[dated], dated)
    except (BadMessage, FieldError):
        pass  # Celery runs the task all the same; what can't be read matches nothing
    return TaskMessage(
        request.id,
        str(headers.get("task")),
        tuple(request.args or ()),
        dict(request.kwargs or {}),
        queue=request.stem_queue,
        attempt=int(headers.get("retries") or 0) + 1,
        enqueued_at=sent,
        headers=own,
        celery=None if HEADER_ENQUEUED_AT in headers else celery_origin(headers, {}),
    )


def _forget_stamps(over: Iterable[Rule]) -> None:
    """Celery's own memory of stamps knows no undo."""
    for rule in over:
        for stamp, value in rule.selector.headers:
            if stamp in state.revoked_stamps:
                held = state.revoked_stamps[stamp]
                values = held if isinstance(held, (list, tuple, set)) else [held]
                state.revoked_stamps[stamp] = [one for one in values if str(one) != value]
