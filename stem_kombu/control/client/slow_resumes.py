"""What ``resume --at RATE`` stores beside the end of a pause: a rate limit that ends when the queue is empty. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from stem_kombu import timeouts
from stem_kombu.control.client.pause_plans import Subject
from stem_kombu.directive import ALL_WORKERS, QUEUE, Directive, DirectiveDraft, Kind, Value, is_glob, latest
from stem_kombu.errors import ConfigurationError
from stem_kombu.rate import Rate, RateLimit


def slow_limits(
    held: Sequence[Directive],
    queues: Sequence[Subject],
    workers: Sequence[str] | None,
    now: datetime,
    rate: Rate,
) -> list[DirectiveDraft]:
    """The limits to store, of each queue on each of the workers (``None``: on all). Raises :class:`ConfigurationError` for a
    glob, for all queues, and where a queue has a rate limit already, which would be lost."""
    known, drafts = latest(held), []
    for queue in queues:
        if queue is None or is_glob(queue):
            named = "all queues" if queue is None else f"queues {queue}"
            raise ConfigurationError(f"{named} can't be resumed at one rate", hint="name each queue")
        for each in workers or (ALL_WORKERS,):
            before = known.get((Kind.RATE_LIMIT.value, QUEUE + queue, each))
            if before is not None and before.is_live(now) and not is_slow(before):
                raise ConfigurationError(
                    f"queue {queue} has a rate limit already (version {before.version})",
                    hint="resume it without --at, or end that limit first: stem worker rate-limit default",
                )
            replaces = 0 if before is None else before.version
            value = RateLimit(rate, until_empty=True).value()
            drafts.append(
                DirectiveDraft(
                    Kind.RATE_LIMIT, QUEUE + queue, each, value, replaces, now + timedelta(seconds=timeouts.SLOW_RESUME)
                )
            )
    return drafts


def slow_limits_over(
    held: Sequence[Directive], queues: Sequence[Subject], workers: Sequence[str] | None, now: datetime
) -> list[Directive]:
    """The limits of earlier slow resumes that a resume at full speed ends."""
    names = [None if queue is None else QUEUE + queue for queue in queues]
    return [
        one
        for one in held
        if is_slow(one) and one.is_live(now) and (None in names or one.subject in names)
        if workers is None or one.workers in workers
    ]


def is_slow(one: Directive) -> bool:
    """Whether the directive is a limit that ends when its queue is empty."""
    value: Value = one.value
    return one.kind is Kind.RATE_LIMIT and isinstance(value, dict) and RateLimit.of_value(value).until_empty
