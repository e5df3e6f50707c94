"""Celery's verbs that change a worker (``celery control pool_grow``, Flower's buttons): each becomes a directive or an order of
Stem's for this one worker, stored before it is obeyed (G21).

Answers are worded as Celery's own workers word them. ``{"error": …}`` names what can't be done, and why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from stem_kombu import timeouts
from stem_kombu.autoscale import MOST_CHILDREN, Autoscale
from stem_kombu.control.client.pause_plans import plan_pause, plan_resume
from stem_kombu.control.directive_writer import Author, DirectiveWriter, Plan
from stem_kombu.control.protocol.messages import Shutdown
from stem_kombu.control.server.worker_view import Setting, WorkerView
from stem_kombu.directive import TASK, Directive, DirectiveDraft, Kind, Value, latest
from stem_kombu.errors import StemError
from stem_kombu.fields import FieldError, shown, whole
from stem_kombu.rate import SECONDS, Rate, RateLimit
from stem_kombu.revocation import RevocationDraft

#: Verbs that nothing of Stem's stands for, and what to use.
UNSUPPORTED = {
    "time_limit": "set time limits where the task is registered",
    "pool_restart": "use stem worker shutdown --rolling",
    "revoke_by_stamped_headers": "use stem worker revoke --header",
}
_AUTHOR = Author("celery control", "through Celery's remote control")
#: A rate as Celery writes it, before the unit. An exponent would ask for a number of any length.
_NUMBER = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)

Answer = dict[str, object]


@dataclass(frozen=True, slots=True)
class Changes:
    """How a worker stores what Celery's tools ask for: ``revoke(drafts)`` also lets revocations take effect, ``directives()``
    makes what stores directives. Durable before they are visible (G1, G21)."""

    revoke: Callable[[Sequence[RevocationDraft]], object]
    directives: Callable[[], DirectiveWriter]


class _Unable(Exception):
    """A verb that can't be carried out; its text is the answer."""


class SteeringVerbs:
    """Of one worker. ``handlers()`` are called in the thread of Celery's remote control, and may wait for the store."""

    def __init__(self, view: WorkerView, changes: Changes, names: Callable[[], Sequence[str]]) -> None:
        self._view, self._changes, self._names = view, changes, names
        self._worker = view.identity.worker

    def handlers(self) -> dict[str, Callable[..., Answer]]:
        """Each verb with what carries it out: the arguments are Celery's, by name."""
        known: dict[str, Callable[..., Answer]] = {
            "cancel_consumer": self._cancel_consumer,
            "add_consumer": self._add_consumer,
            "rate_limit": self._rate_limit,
            "pool_grow": self._grow,
            "pool_shrink": self._shrink,
            "autoscale": self._autoscale,
            "shutdown": self._shutdown,
        }
        return {verb: _answered(act) for verb, act in known.items()}

    def _cancel_consumer(self, queue: object = None, **_: object) -> Answer:
        name = self._queue(queue)
        self._store("pause", lambda held, now: plan_pause(held, [name], [self._worker], now).drafts())
        return {"ok": f"no longer consuming from {name}"}

    def _add_consumer(self, queue: object = None, **_: object) -> Answer:
        name = self._queue(queue)
        if name not in self._view.standing().paused:
            return {"ok": f"already consuming from {name!r}"}
        self._store("resume", lambda held, now: plan_resume(held, [name], [self._worker], now).drafts())
        return {"ok": f"add consumer {name}"}

    def _grow(self, n: object = 1, **_: object) -> Answer:
        return self._resize(n, 1)

    def _shrink(self, n: object = 1, **_: object) -> Answer:
        return self._resize(n, -1)

    def _rate_limit(self, task_name: object = None, rate_limit: object = None, **_: object) -> Answer:
        if task_name not in self._names():
            raise _Unable(f"unknown task {task_name!r}")
        value = _rate_limit(rate_limit)
        self._set("rate-limit", Kind.RATE_LIMIT, TASK + str(task_name), value)
        return {"ok": "rate limit disabled successfully" if value is None else "new rate limit set successfully"}

    def _resize(self, number: object, sign: int) -> Answer:
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MOST_CHILDREN:
            raise _Unable(f"{number!r} is no number of children from 1 to {MOST_CHILDREN}")
        self._children()
        has = self._view.standing().concurrency
        wanted = has + sign * number
        if not 1 <= wanted <= MOST_CHILDREN:
            raise _Unable(f"it has {has} children, and may have 1 to {MOST_CHILDREN}")
        self._set("scale", Kind.CONCURRENCY, None, wanted)
        return {"ok": "pool will grow" if sign > 0 else "pool will shrink"}

    def _autoscale(self, max: object = None, min: object = None, **_: object) -> Answer:
        """A bound that is missing stays as it is, as with Celery's own workers."""
        value = self._children().value
        now = value if isinstance(value, Mapping) else {}
        bounds = {name: now.get(name) if given is None else given for name, given in (("min", min), ("max", max))}
        try:
            least, most = (whole(bound, name) for name, bound in bounds.items())
        except FieldError as error:
            raise _Unable(f"{error}; give both, as in: autoscale 8 1") from None
        self._set("autoscale", Kind.CONCURRENCY, None, Autoscale(least, most).value())
        return {"ok": f"autoscale now {most}-{least}"}

    def _children(self) -> Setting:
        """What counts for the children."""
        setting = self._view.settings().get(Kind.CONCURRENCY.value, {}).get(None)
        if setting is None:
            raise _Unable("this worker runs no isolate tasks: there is nothing to scale")
        return setting

    def _shutdown(self, **_: object) -> Answer:
        order = Shutdown(reason=_AUTHOR.reason, requested_by=_AUTHOR.requested_by)
        return {"ok": f"{self._view.shut_down(order).mode} shutdown"}

    def _queue(self, queue: object) -> str:
        if not isinstance(queue, str) or queue not in self._view.standing().queues:
            raise _Unable(f"unsupported: this worker was not started for queue {queue!r}")
        return queue

    def _set(self, action: str, kind: Kind, subject: str | None, value: Value | None) -> None:
        """Have this worker use the value, ``None`` for its own."""

        def plan(held: Sequence[Directive], now: datetime) -> Sequence[DirectiveDraft]:
            before = latest(held).get((kind.value, subject, self._worker))
            if value is not None:
                replaces = 0 if before is None else before.version
                return [DirectiveDraft(kind, subject, self._worker, value, replaces)]
            return [] if before is None or not before.is_live(now) else [DirectiveDraft.clearing(before)]

        self._store(action, plan)

    def _store(self, action: str, plan: Plan) -> None:
        if stored := self._changes.directives().save(action, plan, _AUTHOR):
            starting = self._view.obey(stored).starting
            if starting:
                self._view.wait_started(starting, timeouts.MONITOR_SETTLE)


def _answered(act: Callable[..., Answer]) -> Callable[..., Answer]:
    def answer(state: object, **arguments: object) -> Answer:
        try:
            return act(**arguments)
        except _Unable as error:
            return {"error": str(error)}
        except StemError as error:
            return {"error": f"nothing was stored: {error}"}

    return answer


def _rate_limit(given: object) -> Value | None:
    """The limit as Celery writes it: ``10/s``, ``0.5/m``, or a number of tasks a second; ``None`` for 0, which is no limit."""
    text, _, unit = str(0 if given is None else given).partition("/")
    try:
        if not _NUMBER.fullmatch(text):
            raise ValueError(text)
        tasks = Fraction(text)
        if tasks == 0:
            return None
        tasks = tasks.limit_denominator(1000)
        value = RateLimit(Rate(tasks.numerator, SECONDS[unit or "s"] * tasks.denominator), each=True).value()
        RateLimit.of_value(value)
    except (ArithmeticError, ValueError, KeyError):  # a FieldError is a ValueError
        raise _Unable(f"invalid rate limit string: {shown(given)}") from None
    return value


def unsupported(verb: str) -> Mapping[str, str]:
    """The answer to a verb that nothing of Stem's stands for."""
    return {"error": f"unsupported: a Stem worker has no {verb!r}; {UNSUPPORTED[verb]}"}
