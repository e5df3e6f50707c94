"""Which tasks an operator means by what they are: a name, a queue, headers, arguments, relatives. Pure.

All conditions have to hold. A selector looks at the message alone, so that a worker, a search of a queue and a test decide alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fnmatch import translate
from functools import lru_cache

from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import FieldError, any_text, items, mapping, optional
from stem_kombu.task import TaskMessage

#: Headers and keyword arguments that one selector names at most.
_MOST_PAIRS = 20


@dataclass(frozen=True, slots=True)
class Selector:
    """``name`` and ``queue`` are globs. ``headers`` compare the text of the sender's own headers, and of each value of a stamp
    of Celery's; ``kwargs`` compare JSON.
    ``parent``, ``root`` and ``group`` are ids: a task that has no parent is its own root."""

    name: str | None = None
    queue: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    kwargs: tuple[tuple[str, str], ...] = ()
    parent: str | None = None
    root: str | None = None
    group: str | None = None

    def __bool__(self) -> bool:
        return self != _NONE

    def may_match(self, name: str) -> bool:
        """Whether a task of that name may match: what is quick to ask of many messages."""
        return self.name is None or _fits(name, self.name)

    def may_wait_in(self, queue: str) -> bool:
        """Whether a task in that queue may match."""
        return self.queue is None or _fits(queue, self.queue)

    def matches(self, task: TaskMessage) -> bool:
        """Whether every condition holds for the task. Each rule is asked for each delivery: what is quick comes first."""
        for key, value in self.headers:
            held = task.headers.get(key, _ABSENT)
            if held != value and (held is _ABSENT or header_text(held) != value) and not _is_stamped(task, key, value):
                return False
        if self.name is not None and not _fits(task.name, self.name):
            return False
        if self.queue is not None and not _fits(task.queue, self.queue):
            return False
        if self.kwargs and not all(
            key in task.kwargs and canonical(task.kwargs[key]) == value for key, value in self.kwargs
        ):
            return False
        origin = task.celery
        if self.parent is not None and (origin is None or origin.parent_id != self.parent):
            return False
        if self.group is not None and (origin is None or origin.group != self.group):
            return False
        return self.root is None or self.root == ((origin.root_id if origin is not None else None) or task.task_id)

    def to_record(self) -> dict[str, object]:
        """The JSON form: only conditions that are set."""
        named = {part: getattr(self, part) for part in ("name", "queue", "parent", "root", "group")}
        found: dict[str, object] = {part: value for part, value in named.items() if value is not None}
        for part, pairs in (("headers", self.headers), ("kwargs", self.kwargs)):
            if pairs:
                found[part] = [list(pair) for pair in pairs]
        return found

    @classmethod
    def from_record(cls, value: object) -> Selector:
        """The selector of a JSON form; raises :class:`~stem_kombu.fields.FieldError` where it is none."""
        fields = mapping(value, "selector")
        texts = {
            part: optional(any_text, fields.get(part), part) for part in ("name", "queue", "parent", "root", "group")
        }
        found = cls(**texts, headers=_pairs(fields, "headers"), kwargs=_pairs(fields, "kwargs"))
        if unknown := fields.keys() - {*texts, "headers", "kwargs"}:
            # A condition that is not known here would be one that does not hold back.
            raise FieldError(f"selector has the unknown condition {sorted(unknown)[0][:40]!r}")
        return found

    @classmethod
    def of(
        cls,
        *,
        name: str | None = None,
        queue: str | None = None,
        headers: Mapping[str, str] | None = None,
        kwargs: Mapping[str, object] | None = None,
        parent: str | None = None,
        root: str | None = None,
        group: str | None = None,
    ) -> Selector:
        """The selector of plain values; ``kwargs`` are JSON values. Raises :class:`ConfigurationError` for a blank condition, and
        for what is no JSON."""
        for part, value in (("name", name), ("queue", queue), ("parent", parent), ("root", root), ("group", group)):
            if value is not None and not value.strip():
                raise ConfigurationError(f"the condition {part} is blank", hint="leave it out, or give it a value")
        try:
            compared = tuple((key, canonical(value)) for key, value in sorted((kwargs or {}).items()))
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"a keyword argument to select by is no JSON: {error}") from error
        given = tuple(sorted((headers or {}).items()))
        if len(given) > _MOST_PAIRS or len(compared) > _MOST_PAIRS:
            raise ConfigurationError(f"at most {_MOST_PAIRS} headers and keyword arguments can be selected by")
        return cls(name, queue, given, compared, parent, root, group)


_NONE = Selector()
_ABSENT = object()


def canonical(value: object) -> str:
    """A JSON value as text, the same for equal values: ``1``, ``1.0`` and ``true`` are three."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def header_text(value: object) -> str:
    """A header as text: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else canonical(value)


def sent_at(task: TaskMessage) -> datetime | None:
    """When the sender sent the task, by its own clock; ``None`` where it did not say. Celery's clients without Stem don't: what
    a worker enters for them is when it first saw the task."""
    return task.enqueued_at if task.celery is None or task.celery.dated else None


def _is_stamped(task: TaskMessage, key: str, value: str) -> bool:
    origin = task.celery
    return origin is not None and value in origin.stamps.get(key, ())


def _fits(value: str, pattern: str) -> bool:
    if value == pattern:
        return True
    match = _matcher(pattern)
    return match is not None and match(value) is not None


@lru_cache(maxsize=1024)
def _matcher(pattern: str) -> Callable[[str], object] | None:
    """What matches the glob; ``None`` for a plain name."""
    return re.compile(translate(pattern)).match if any(sign in pattern for sign in "*?[") else None


def _pairs(fields: Mapping[str, object], part: str) -> tuple[tuple[str, str], ...]:
    found = []
    for pair in items(fields.get(part, []), part, most=_MOST_PAIRS):
        key, value = items(pair, f"a pair of {part}", most=2)
        found.append((any_text(key, part), any_text(value, part)))
    return tuple(found)
