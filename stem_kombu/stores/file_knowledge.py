"""What a process knows of a file of revocations without holding its records, and when the file is worth rewriting."""

from __future__ import annotations

from dataclasses import dataclass, field

from stem_kombu.stores.journal import Extent

#: The file is rewritten when this many of its records, and more than half of them, are of no use any more.
_MOST_USELESS = 1000


@dataclass(slots=True)
class Shelf:
    """What is known of one namespace. ``lines`` (escaped task id to offset) is built by the first save or get."""

    revision: int = 0
    next_expiry_us: int | None = None
    lines: dict[bytes, int] = field(default_factory=dict)


@dataclass(slots=True)
class Known:
    """What was learnt of the file up to the end of ``extent``, without holding its records."""

    extent: Extent = field(default_factory=Extent)
    indexed: bool = False
    records: int = 0
    useless: int = 0
    shelves: dict[bytes, Shelf] = field(default_factory=dict)

    def shelf(self, namespace: bytes) -> Shelf:
        return self.shelves.setdefault(namespace, Shelf())


@dataclass(frozen=True, slots=True)
class ReadTo:
    """A stream of one namespace came to ``offset`` of the file with this header, and had seen ``version``."""

    header: bytes
    offset: int
    version: int


def dominates(useless: int, records: int) -> bool:
    """Whether so many of the records are of no use any more that the file is rewritten."""
    return useless > _MOST_USELESS and useless * 2 > records
