"""Revocations in Redis by pages: what the records of a page have in common comes once, and is parsed once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import itemgetter
from typing import TypeVar

from stem_kombu.fields import FieldError, items

T = TypeVar("T")

#: Records of a page: the server is busy for a few milliseconds at a time.
PAGE = 2000
#: The fields of a record without proofs behind its version, in the order in which a page of revocations takes them.
_FIELDS_OF = itemgetter("issued_us", "terminate", "reason", "requested_by", "expires_us")
_FIELDS = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """What :data:`stem_kombu.stores.redis_scripts.PAGE` answers for a page that begins at ``start``: the server's now, records,
    the version of the last, and as JSON the task ids, the versions, what records have beside these, and how many records that
    follow each other have it."""

    start: str
    now_us: int
    count: int
    last: int
    task_ids: bytes
    versions: bytes
    rests: bytes
    counts: bytes


def following(answer: Answer) -> str | None:
    """Where the page begins that comes after this one."""
    return None if answer.count < PAGE else f"({answer.last}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """The same, parsed; a version is ``None`` where its record does not begin with one."""

    task_ids: Sequence[str]
    versions: Sequence[object]
    rests: Sequence[object]
    counts: Sequence[int]

    def columns(self) -> Sequence[Sequence[object]]:
        """The columns of records that are all without proofs; none where one is not, or is no record."""
        found = [rest for rest in self.rests if isinstance(rest, dict) and len(rest) == _FIELDS]
        if not found or len(found) < len(self.rests):
            return ()
        try:
            different = list(zip(*map(_FIELDS_OF, found), strict=True))
        except KeyError:
            return ()
        return [self.task_ids, self.versions, *(list(self._each(column)) for column in different)]

    def records(self) -> list[object]:
        """The fields of each record; whatever else stands there where it is none."""
        return [
            {**rest, "version": version} if version is not None and isinstance(rest, dict) else rest
            for version, rest in zip(self.versions, self._each(self.rests), strict=True)
        ]

    def _each(self, values: Iterable[T]) -> Iterable[T]:
        """The values, as often as records have them."""
        return chain.from_iterable(map(repeat, values, self.counts))


def parsed(task_ids: bytes, versions: bytes, rests: bytes, counts: bytes) -> Parsed:
    """A page; raises ``TypeError``, ``ValueError`` or ``RecursionError`` for another shape."""
    ids, numbers = (
        items(json.loads(task_ids), "task ids", most=PAGE),
        items(json.loads(versions), "versions", most=PAGE),
    )
    found, often = items(json.loads(rests), "records", most=PAGE), items(json.loads(counts), "counts", most=PAGE)
    named = [task_id for task_id in ids if isinstance(task_id, str)]
    times = [count for count in often if type(count) is int and count > 0]
    if not len(named) == len(ids) == len(numbers) == sum(times) or not len(found) == len(often) == len(times):
        raise FieldError(
            f"{len(named)} of {len(ids)} task ids, {len(numbers)} versions and {len(found)} of {times} records"
        )
    return Parsed(named, numbers, found, times)
