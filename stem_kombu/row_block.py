"""A block of rows of fixed width, column by column: 48 bytes a row, and no object for each."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from operator import or_
from typing import NamedTuple

#: The expiry of a row that never expires: later than any time.
NEVER = 2**63 - 1
#: The version of a row that was replaced or removed. Real ones are 0 or more.
GONE = -1
#: Bytes of a row's key.
KEY = 16


class Row(NamedTuple):
    """One row; ``flags`` below 2**31 and ``requester`` below 2**32 are the caller's."""

    task_id: str
    version: int
    issued_us: int
    expires_us: int
    flags: int
    requester: int


@dataclass(frozen=True, slots=True)
class Columns:
    """At least one row to add, by column, all of the same length."""

    task_ids: Sequence[str]
    versions: array[int]
    issued_us: array[int]
    expires_us: array[int]
    flags: array[int]
    requesters: array[int]
    #: No row expires sooner.
    due: int

    @classmethod
    def of(
        cls,
        task_ids: Sequence[str],
        versions: Sequence[int],
        issued_us: Sequence[int],
        expires_us: Sequence[int],
        flags: Sequence[int],
        requesters: Sequence[int],
    ) -> Columns:
        return cls(
            task_ids,
            array("q", versions),
            _packed("q", issued_us),
            _packed("q", expires_us),
            _packed("I", flags),
            _packed("I", requesters),
            min(expires_us),
        )

    @classmethod
    def of_rows(cls, rows: Sequence[Row]) -> Columns:
        task_ids, *columns = zip(*rows, strict=True)
        versions, issued_us, expires_us, flags, requesters = map(array, "qqqII", columns)
        return cls(task_ids, versions, issued_us, expires_us, flags, requesters, min(expires_us))


def is_same(values: Sequence[object]) -> bool:
    """Whether all of the values are equal: of a batch most columns are."""
    return values.count(values[0]) == len(values)


def _packed(kind: str, values: Sequence[int]) -> array[int]:
    return array(kind, values[:1]) * len(values) if len(values) > 1 and is_same(values) else array(kind, values)


class Block:
    """Rows that came one after the other. Only the version of a row is ever overwritten: a late reader reads what it was."""

    __slots__ = ("due", "expires_us", "flags", "issued_us", "keys", "live", "number", "requesters", "versions")

    def __init__(self, number: int) -> None:
        self.number = number
        self.keys = bytearray()
        self.versions, self.issued_us, self.expires_us = array("q"), array("q"), array("q")
        self.flags, self.requesters = array("I"), array("I")
        self.live = 0
        #: No live row expires sooner.
        self.due = NEVER

    def extend(self, columns: Columns, keys: bytes, named: Sequence[int], start: int, stop: int) -> None:
        self.keys += keys[start * KEY : stop * KEY]
        self.versions += columns.versions[start:stop]
        self.issued_us += columns.issued_us[start:stop]
        self.expires_us += columns.expires_us[start:stop]
        flags = columns.flags[start:stop]
        self.flags += array("I", map(or_, flags, named[start:stop])) if named else flags
        self.requesters += columns.requesters[start:stop]
        self.live += stop - start
        self.due = min(self.due, columns.due)

    def copy(self, block: Block, place: int) -> None:
        """Add a row of another block."""
        self.keys += block.keys[place * KEY : place * KEY + KEY]
        self.versions.append(block.versions[place])
        self.issued_us.append(block.issued_us[place])
        self.expires_us.append(block.expires_us[place])
        self.flags.append(block.flags[place])
        self.requesters.append(block.requesters[place])
        self.live += 1
        self.due = min(self.due, block.expires_us[place])

    def places(self) -> list[int]:
        """Where its live rows are."""
        return [place for place, version in enumerate(self.versions) if version != GONE]
