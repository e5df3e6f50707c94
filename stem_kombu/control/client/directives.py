"""The desired state of a fleet, as an operator changes it: stored, then sent to the workers (G21)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from stem_kombu import chance, timeouts
from stem_kombu.autoscale import Autoscale
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.command_request import checked_targets, default_requester
from stem_kombu.control.client.outcomes import outcome_note
from stem_kombu.control.client.pause_plans import PausePlan, Subject, plan_pause, plan_resume
from stem_kombu.control.client.reports import Report, WorkerReply
from stem_kombu.control.client.slow_resumes import slow_limits, slow_limits_over
from stem_kombu.control.directive_writer import Author, Plan
from stem_kombu.control.protocol.messages import Obey
from stem_kombu.directive import ALL_WORKERS, Directive, DirectiveDraft, Kind, Value, is_glob, latest
from stem_kombu.durations import checked_duration
from stem_kombu.errors import BrokerError, ConfigurationError
from stem_kombu.rate import Rate
from stem_kombu.transports.names import checked_queue_name

#: Codes of replies by which a worker says that it knows no directives, and what each means.
NOT_OBEYED = {
    "unknown-command": "it is too old to know directives",
    "unsupported": "a Celery worker obeys pauses, log levels, rate limits with --name and --each, and scale of some pools",
}


@dataclass(frozen=True, slots=True)
class DirectiveReport(Report):
    """``stored`` is what the change stored, what it cleared included. ``not_obeying`` are live workers that know no
    directives, each with one of :data:`NOT_OBEYED`. ``broadcast`` is false when the broker could not be reached: workers obey
    at their next sync."""

    stored: tuple[Directive, ...] = ()
    not_obeying: tuple[tuple[str, str], ...] = ()
    broadcast: bool = True
    broker_error: str | None = None

    @classmethod
    def of(cls, report: Report, stored: Sequence[Directive], *, error: BrokerError | None = None) -> DirectiveReport:
        """The report of a command to obey, and what was stored before it."""
        told: dict[str, Any] = {one.name: getattr(report, one.name) for one in fields(Report)}
        deaf = [(reply.worker, code) for reply in report.replies if (code := _why_not(reply)) is not None]
        told["replies"] = tuple(reply for reply in report.replies if _why_not(reply) is None)
        return cls(
            **told,
            stored=tuple(stored),
            not_obeying=tuple(deaf),
            broadcast=error is None,
            broker_error=None if error is None else str(error),
        )

    @property
    def applied(self) -> dict[str, int]:
        """The version up to which each worker that answered knows directives."""
        return {reply.worker: int(reply.payload.get("applied") or 0) for reply in self.replies if reply.error is None}

    def consumers(self, subjects: Sequence[Subject]) -> int:
        """How many of the workers that answered consume one of these queues."""
        pauses = [reply.payload.get("settings", {}).get(Kind.PAUSE.value, {}) for reply in self.replies]
        return sum(any(_is_about(subject, queue) for subject in subjects for queue in each) for each in pauses)

    def to_dict(self) -> dict[str, Any]:
        return {
            **Report.to_dict(self),
            "stored": [directive.to_record() for directive in self.stored],
            "not_obeying": [{"worker": worker, "code": code} for worker, code in self.not_obeying],
            "broadcast": self.broadcast,
            "broker_error": self.broker_error,
        }


@dataclass(frozen=True, slots=True)
class Ending:
    """When a directive ends: after ``expires_in`` seconds, or at ``expires_at`` by the store's clock; neither: it doesn't."""

    expires_in: float | None = None
    expires_at: datetime | None = None

    def at(self, now: datetime) -> datetime | None:
        """The time, where the store's is ``now``. Raises :class:`ConfigurationError` for one that has passed."""
        if self.expires_in is not None:
            return now + timedelta(seconds=checked_duration(self.expires_in, name="expires_in"))
        if self.expires_at is not None and self.expires_at <= now:
            raise ConfigurationError(f"the end {self.expires_at} has passed: by the store's clock it is {now}")
        return self.expires_at


NEVER = Ending()
#: The command's word of a change, for the audit.
_ACTIONS = {Kind.PAUSE: "pause", Kind.CONCURRENCY: "scale", Kind.RATE_LIMIT: "rate-limit", Kind.LOG_LEVEL: "log-level"}


class DirectiveClient:
    """Changes directives through ``client``, which stays the caller's.

    Each change takes ``workers`` (ids and globs, ``None`` for the whole fleet), ``author`` (``None``: this user, without a
    reason), and ``timeout`` in seconds for the workers' answers. Raises
    :class:`~stem_kombu.errors.StoreError` when nothing was stored, and then nothing was sent;
    :class:`ConfigurationError` for what is invalid, and for a store that holds no directives; and
    :class:`~stem_kombu.signing.keyring.Untrusted` where the fleet would not obey. A broker that can't be reached is reported.
    """

    def __init__(self, client: ControlClient, *, clock: Clock = SYSTEM) -> None:
        self._client = client
        self._clock = clock

    def held(self, timeout: float | None = None) -> tuple[list[Directive], datetime]:
        """What the store holds, cleared and expired ones included while they are kept; and the store's time."""
        client, writer = self._client, self._client.directive_writer(timeout)
        within = client.settings.control_timeout if timeout is None else timeout

        def look() -> tuple[list[Directive], datetime]:
            return writer.held(), writer.now()

        return client.places.in_time(look, within, stores=False)

    def pause(
        self,
        queues: Sequence[str] | None,
        *,
        workers: Sequence[str] | None = None,
        ending: Ending = NEVER,
        author: Author | None = None,
        timeout: float | None = None,
    ) -> DirectiveReport:
        """Have no task of these queues (names and globs; ``None``: of any queue) start: on those workers, and on those that
        start later, until the end or :meth:`resume`. What waits at a worker goes back to its queue; what runs goes on."""
        subjects, on = checked_subjects(queues), checked_targets(workers)

        def plan(held: Sequence[Directive], now: datetime) -> Sequence[DirectiveDraft]:
            return plan_pause(held, subjects, on or (ALL_WORKERS,), now, ending.at(now)).drafts()

        return self.change("pause", plan, workers=on, author=author, timeout=timeout)

    def resume(
        self,
        queues: Sequence[str] | None,
        *,
        workers: Sequence[str] | None = None,
        at: Rate | None = None,
        author: Author | None = None,
        timeout: float | None = None,
    ) -> DirectiveReport:
        """End the pauses of these queues. Where another pause covers one of them, an exemption is stored. Without ``workers``
        the pauses of single workers end as well. ``at``: tasks start at that rate until the queue is empty, for a day at most.
        Nothing is stored, and no worker asked, where nothing is paused."""
        subjects, on = checked_subjects(queues), checked_targets(workers)

        def plan(held: Sequence[Directive], now: datetime) -> Sequence[DirectiveDraft]:
            return _resumed(held, subjects, on, now, at).drafts()

        return self.change("resume", plan, workers=on, author=author, timeout=timeout)

    def planned_pause(
        self,
        queues: Sequence[str] | None,
        *,
        workers: Sequence[str] | None = None,
        ending: Ending = NEVER,
        timeout: float | None = None,
    ) -> PausePlan:
        """What :meth:`pause` would store now."""
        held, now = self.held(timeout)
        on = checked_targets(workers) or (ALL_WORKERS,)
        return plan_pause(held, checked_subjects(queues), on, now, ending.at(now))

    def planned_resume(
        self,
        queues: Sequence[str] | None,
        *,
        workers: Sequence[str] | None = None,
        at: Rate | None = None,
        timeout: float | None = None,
    ) -> PausePlan:
        """What :meth:`resume` would store now."""
        held, now = self.held(timeout)
        return _resumed(held, checked_subjects(queues), checked_targets(workers), now, at)

    def set(
        self,
        kind: Kind,
        values: Mapping[str, Value | None],
        *,
        subject: Subject = None,
        ending: Ending = NEVER,
        author: Author | None = None,
        timeout: float | None = None,
    ) -> DirectiveReport:
        """Have workers use these values: ``values`` maps a worker id or a glob (``*``: all) to a value, ``None`` to the worker's
        own. The directives of that kind and subject that are about none but these workers are replaced."""
        on = None if ALL_WORKERS in values else tuple(values)

        def plan(held: Sequence[Directive], now: datetime) -> Sequence[DirectiveDraft]:
            return planned_values(held, kind, subject, values, now, ending.at(now))

        return self.change(_ACTIONS[kind], plan, workers=on, author=author, timeout=timeout)

    def autoscale(
        self,
        scaling: Autoscale | None,
        *,
        workers: Sequence[str] | None = None,
        ending: Ending = NEVER,
        author: Author | None = None,
        timeout: float | None = None,
    ) -> DirectiveReport:
        """Have each worker choose its number of isolate children by the work that waits; replaces what :meth:`set` stored of the
        kind ``concurrency`` there. ``None`` ends it; a number of children that was set stays."""
        on = checked_targets(workers)
        values = dict.fromkeys(on or (ALL_WORKERS,), None if scaling is None else scaling.value())

        def plan(held: Sequence[Directive], now: datetime) -> Sequence[DirectiveDraft]:
            drafts = planned_values(held, Kind.CONCURRENCY, None, values, now, ending.at(now))
            return drafts if scaling is not None else [one for one in drafts if isinstance(one.value, Mapping)]

        return self.change("autoscale", plan, workers=on, author=author, timeout=timeout)

    def clear(
        self,
        wanted: Callable[[Directive], bool],
        *,
        author: Author | None = None,
        timeout: float | None = None,
    ) -> DirectiveReport:
        """Clear each live directive that is wanted: what it asked for ends."""

        def plan(held: Sequence[Directive], now: datetime) -> Sequence[DirectiveDraft]:
            return [DirectiveDraft.clearing(one) for one in held if one.is_live(now) and wanted(one)]

        return self.change("directives clear", plan, workers=None, author=author, timeout=timeout)

    def change(
        self,
        action: str,
        plan: Plan,
        *,
        workers: Sequence[str] | None,
        author: Author | None = None,
        timeout: float | None = None,
    ) -> DirectiveReport:
        """Store what the plan asks for, then send it to the workers. ``action`` is the command's word, for the audit."""
        client, began = self._client, self._clock.monotonic()
        author = author or Author(default_requester())
        given = client.settings.control_timeout if timeout is None else timeout
        stored = client.places.in_time(partial(client.directive_writer(timeout).save, action, plan, author), given)
        if not stored:
            return DirectiveReport.of(self._unsent(given, began), ())
        left = client.left(began, given)
        order = Obey(tuple(stored), min(timeouts.DIRECTIVE_SETTLE_LONGEST, timeouts.DIRECTIVE_SETTLE_SHARE * left))
        try:
            report = client.ask(order, workers, left)
        except BrokerError as error:
            return DirectiveReport.of(self._unsent(given, began), stored, error=error)
        client.noted(outcome_note(action, report, author.requested_by, author.reason, report.request_id))
        return DirectiveReport.of(replace(report, timeout=given, audited=True), stored)

    def ask(self, *, workers: Sequence[str] | None = None, timeout: float | None = None) -> DirectiveReport:
        """Which directives each worker knows, and what counts there."""
        return DirectiveReport.of(self._client.ask(Obey(), workers, timeout), ())

    def _unsent(self, timeout: float, began: float) -> Report:
        elapsed = self._clock.monotonic() - began
        namespace = self._client.settings.namespace
        return Report(Obey.name, namespace, chance.token_hex(16), timeout, elapsed, (), (), ())


def checked_subjects(queues: Sequence[str] | None) -> tuple[Subject, ...]:
    """The queues of a pause; raises :class:`ConfigurationError` for what is no name and no glob of names."""
    if queues is None:
        return (None,)
    if isinstance(queues, str):
        raise ConfigurationError(f"queues {queues!r} is one text", hint="pass a list of names")
    if not queues:
        raise ConfigurationError("no queue is named", hint="name one, or all queues")
    return tuple(dict.fromkeys(one if is_glob(one) else checked_queue_name(one) for one in queues))


def _resumed(
    held: Sequence[Directive],
    subjects: Sequence[Subject],
    workers: Sequence[str] | None,
    now: datetime,
    at: Rate | None,
) -> PausePlan:
    plan, over = plan_resume(held, subjects, workers, now), slow_limits_over(held, subjects, workers, now)
    if at is not None:
        slow = slow_limits(held, subjects, workers, now, at)
        return PausePlan([*plan.set, *slow], plan.cleared) if plan.drafts() or over else plan
    return PausePlan(plan.set, [*plan.cleared, *over])


def planned_values(
    held: Sequence[Directive],
    kind: Kind,
    subject: Subject,
    values: Mapping[str, Value | None],
    now: datetime,
    expires_at: datetime | None,
) -> list[DirectiveDraft]:
    """What :meth:`DirectiveClient.set` stores: the values, and what ends with them."""
    known = latest(held)
    drafts = []
    for workers, value in values.items():
        before = known.get((kind.value, subject, workers))
        if value is not None:
            replaces = 0 if before is None else before.version
            drafts.append(DirectiveDraft(kind, subject, workers, value, replaces, expires_at))
    stored = {draft.key for draft in drafts}
    ended = [
        one
        for one in known.values()
        if one.kind is kind and one.subject == subject and one.is_live(now) and one.key not in stored
        if any(workers in (ALL_WORKERS, one.workers) or fnmatchcase(one.workers, workers) for workers in values)
    ]
    return [*drafts, *map(DirectiveDraft.clearing, ended)]


def _is_about(subject: Subject, queue: str) -> bool:
    return subject is None or subject == queue or (is_glob(subject) and fnmatchcase(queue, subject))


def _why_not(reply: WorkerReply) -> str | None:
    """The code of a reply by which a worker says that it knows no directives."""
    return None if reply.error is None or reply.error.code not in NOT_OBEYED else reply.error.code
