"""A call of a task: its arguments and options, checked and made into a message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone

from stem_kombu import chance
from stem_kombu.arguments import checked_task_name, listed
from stem_kombu.durations import LONGEST, checked_seconds
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import shown
from stem_kombu.publishing import Publishing, queue_name
from stem_kombu.revocation import checked_task_id
from stem_kombu.task import TaskMessage, checked_retries

Arguments = tuple[Sequence[object], Mapping[str, object] | None, str | None]


def message_of(
    name: str,
    args: Sequence[object],
    kwargs: Mapping[str, object] | None,
    queue: str,
    *,
    now: datetime,
    task_id: str | None = None,
    countdown: float | None = None,
    eta: datetime | None = None,
    expires: float | datetime | None = None,
    headers: Mapping[str, object] | None = None,
    max_retries: int | None = None,
    soft_time_limit: float | None = None,
    time_limit: float | None = None,
    publishing: Publishing | None = None,
) -> TaskMessage:
    """The first attempt of the task, enqueued ``now``; the options are those of :meth:`stem_kombu.app.Stem.send_task`.

    Raises :class:`ConfigurationError` naming the argument for a name, queue, id, time, limit or number of retries that is
    invalid.
    """
    if not isinstance(name, str):
        raise ConfigurationError(
            f"the name of a task is text, not {shown(name)} ({type(name).__name__})",
            hint="send a task that is defined here by its own delay() or apply_async()",
        )
    checked_task_name(name)
    _check_arguments(name, args, kwargs)
    queue_name(queue, f"task {name!r}")
    if countdown is not None:
        eta = now + timedelta(seconds=checked_seconds(countdown, name=f"countdown of task {name!r}"))
    elif eta is not None:
        eta = _moment(eta, f"eta of task {name!r}")
    if expires is not None:
        expires = _expiry(expires, now, f"expires of task {name!r}")
    return TaskMessage(
        task_id=chance.uuid_text() if task_id is None else checked_task_id(task_id),
        name=name,
        args=tuple(args),
        kwargs=dict(kwargs or {}),
        queue=queue,
        eta=eta,
        expires_at=expires,
        enqueued_at=now,
        max_retries=None if max_retries is None else checked_retries(max_retries, name=f"max_retries of task {name!r}"),
        soft_time_limit=None
        if soft_time_limit is None
        else _limit(soft_time_limit, f"soft_time_limit of task {name!r}"),
        time_limit=None if time_limit is None else _limit(time_limit, f"time_limit of task {name!r}"),
        headers=_headers(headers, name) if headers else {},
        publishing=publishing,
    )


def _headers(headers: object, name: str) -> dict[str, object]:
    if not (isinstance(headers, Mapping) and all(isinstance(key, str) for key in headers)):
        raise ConfigurationError(
            f"headers of task {name!r} is {shown(headers)} ({type(headers).__name__})",
            hint="give a mapping of names to values: headers={'shop': 'berlin'}",
        )
    return dict(headers)


def _check_arguments(name: str, args: object, kwargs: object) -> None:
    """Text is a sequence of characters and a mapping one of keys, but neither is meant as arguments."""
    if kwargs is None and type(args) in (list, tuple):
        return  # most calls
    if isinstance(args, (str, bytes, Mapping)) or not isinstance(args, Iterable):
        raise ConfigurationError(
            f"args of task {name!r} is {shown(args)} ({type(args).__name__})",
            hint="give a list or tuple of arguments: args=[value]",
        )
    if kwargs is not None and not (isinstance(kwargs, Mapping) and all(isinstance(key, str) for key in kwargs)):
        raise ConfigurationError(
            f"kwargs of task {name!r} is {shown(kwargs)} ({type(kwargs).__name__})",
            hint="give a mapping of names to values: kwargs={'name': value}",
        )


def _moment(value: object, name: str) -> datetime:
    """A time as aware UTC; one without a zone is UTC, as it is to Celery, whatever the zone of this machine."""
    if not isinstance(value, datetime):
        hint = "give a datetime, or the seconds from now as countdown"
        raise ConfigurationError(f"{name}: {shown(value)} ({type(value).__name__}) is no datetime", hint=hint)
    try:
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)
    except (OverflowError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{name}: {shown(value)} is not in the calendar of UTC: {error}") from error


def _expiry(value: object, now: datetime, name: str) -> datetime:
    if isinstance(value, datetime):
        return _moment(value, name)
    return now + timedelta(seconds=checked_seconds(value, name=name, least=-LONGEST))


def _limit(value: float, name: str) -> float | None:
    """Seconds; 0 means that there is no limit, as in Celery's messages."""
    return checked_seconds(value, name=name) or None


def each_call(
    name: str, calls: Iterable[Mapping[str, object] | Sequence[object]], task_ids: Sequence[str] | None
) -> Iterator[Arguments]:
    """Positional arguments, keywords and id of each call of the task, which is a mapping of keywords or a list or tuple of
    positional arguments. Raises :class:`ConfigurationError` for what is neither, and for ids that are not one for each."""
    every = listed(calls, f"calls of task {name!r}")
    ids: Sequence[str | None] = (
        [None] * len(every) if task_ids is None else listed(task_ids, f"task_ids of task {name!r}")
    )
    if len(ids) != len(every) or (task_ids is not None and len(set(ids)) != len(ids)):
        raise ConfigurationError(f"task_ids of {name!r} are not {len(every)} different ids, one for each call")
    for call, task_id in zip(every, ids, strict=True):
        if isinstance(call, Mapping):
            yield (), call, task_id
        elif isinstance(call, (list, tuple)):
            yield call, None, task_id
        else:
            raise ConfigurationError(
                f"a call of task {name!r} is a {type(call).__name__}",
                hint="give a mapping of keyword arguments, or a list or tuple of positional ones, for each",
            )
