"""The lines of the file store: a record, or the mark of a namespace, as JSON that people can read and a machine can check.

    {"namespace":"shop","task_id":"t1","version":17…,"supersedes":null,"issued_at":…,"expires_at":null,"crc":"0a1b2c3d"}
    {"namespace":"shop","revision":17…,"pruned_us":0,"pruned":0}

``crc`` covers all of a record's line before it but the number that it ``supersedes``, which a rewrite by stem-kombu 0.1.0
takes out. That number counts only for a record of the same task, so that a flipped bit in it loses no other. Lines of
0.1.0 have no ``crc``; it reads those that have one.

A batch is several lines, all but the last marked ``more``: 0.1.0 refuses a file with a line that is neither a record nor a mark,
and so a batch in one line would stop the workers of a fleet that are not upgraded yet.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass, field

from stem_kombu.clock import epoch_us, parse_isoformat
from stem_kombu.revocation import Revocation, as_flag
from stem_kombu.stores.batch import CEILING
from stem_kombu.stores.journal import MORE

_TEXT = rb'"((?:[^"\\]|\\.)*)"'
#: The beginning of every line: a record, or the mark of a namespace. Enough to skip a line without decoding it.
_LINE = re.compile(
    rb'\{"namespace":' + _TEXT + rb',(?:"task_id":' + _TEXT + rb',"version":(\d{1,16}),"supersedes":(\d{1,16}|null),'
    rb'|"revision":(\d{1,16}),"pruned_us":(\d{1,16}),"pruned":(\d{1,16})\}$)'
)
_CRC = re.compile(rb',"crc":"([0-9a-f]{8})"(?:\}\n|,"more":true\}\n)\Z')
_END = b"}\n"


class Unreadable(ValueError):
    """A line that is neither a record nor a mark, or is damaged; ``namespace`` and ``task_id`` as far as they are known."""

    def __init__(self, reason: str, *, namespace: str | None = None, task_id: str | None = None) -> None:
        super().__init__(reason)
        self.namespace, self.task_id = namespace, task_id


class Line:
    """A line and where it ends, decoded no further than needed. Raises :class:`Unreadable`."""

    __slots__ = ("match", "offset", "text", "version")

    def __init__(self, offset: int, text: bytes) -> None:
        match = _LINE.match(text)
        if match is None:
            raise Unreadable("it is neither a record nor a mark")
        self.offset, self.text, self.match = offset, text, match
        self.version = int(match[3] or 0)
        if match[3] is None:
            return
        if b'"crc":"' in text[-32:]:
            found = _CRC.search(text)
            if found is None or int(found[1], 16) != _checksum(match, text[: found.start()]):
                raise Unreadable("its checksum does not fit: a part of it was changed")
        if self.version >= CEILING:
            raise self.unreadable(f"version {self.version} is not a version of a store")

    @property
    def is_mark(self) -> bool:
        return self.match[3] is None

    @property
    def namespace(self) -> bytes:
        """As it stands in the line: see :func:`escaped`."""
        return self.match[1]

    @property
    def task_id(self) -> bytes:
        return self.match[2]

    @property
    def supersedes(self) -> int | None:
        return None if self.match[4] == b"null" else int(self.match[4])

    @property
    def revision(self) -> int:
        """Of a mark: the highest version that its namespace had, 0 for a number that can't be one."""
        given = int(self.match[5])
        return given if given < CEILING else 0

    @property
    def pruned_us(self) -> int:
        return int(self.match[6])

    @property
    def pruned(self) -> int:
        return int(self.match[7])

    @property
    def expires_us(self) -> int | None:
        value = self.text.rpartition(b'"expires_at":')[2]
        if value.startswith(b"null"):
            return None
        try:
            return epoch_us(parse_isoformat(value.split(b'"')[1].decode()))
        except (ValueError, IndexError) as error:
            raise self.unreadable(error) from error

    def decoded(self) -> Revocation:
        try:
            fields = json.loads(self.text.decode())
            fields["terminate"] = as_flag(fields.get("terminate", False))
            record = Revocation.from_record(fields)
        except (ValueError, RecursionError, TypeError, OverflowError) as error:
            raise self.unreadable(error) from error
        said = (escaped(record.namespace), escaped(record.task_id), record.version)
        if said != (self.match[1], self.match[2], self.version):  # a name stands in the line twice
            raise self.unreadable("it names two tasks")
        return record

    def alone(self) -> bytes:
        """The line as one that replaces nothing and is a batch of its own."""
        text = self.text[: self.match.start(4)] + b"null" + self.text[self.match.end(4) :]
        return text[: -len(MORE)] + _END if text.endswith(MORE) else text

    def unreadable(self, reason: object) -> Unreadable:
        return Unreadable(str(reason), namespace=_text_of(self.match[1]), task_id=_text_of(self.match[2]))


@dataclass(slots=True)
class Gone:
    """Which records of a namespace count no more: replaced ones by version and task, pruned ones by place and expiry."""

    superseded: dict[int, bytes] = field(default_factory=dict)
    marked_at: int = 0
    pruned_us: int = 0

    def __contains__(self, record: Line) -> bool:
        if self.superseded.get(record.version) == record.task_id:
            return True
        if record.offset > self.marked_at:
            return False
        return record.expires_us is not None and record.expires_us <= self.pruned_us


def escaped(text: str) -> bytes:
    """The text as it stands between the quotes of a line; always ASCII, so equal texts are equal bytes."""
    return json.dumps(text)[1:-1].encode()


def encoded(record: Revocation, held: Revocation | None) -> bytes:
    """The line of a record that takes the place of ``held``."""
    fields = record.to_message()
    first = {name: fields.pop(name) for name in ("namespace", "task_id", "version")}
    supersedes = None if held is None else held.version
    last = {"expires_at": fields.pop("expires_at")}  # a reader that skims a line looks for it near the end
    text = json.dumps({**first, "supersedes": supersedes, **fields, **last}, separators=(",", ":")).encode()[:-1]
    match = _LINE.match(text)
    assert match is not None
    return text + b',"crc":"%08x"' % _checksum(match, text) + _END


def batch_of(lines: list[bytes]) -> list[bytes]:
    """The lines as one batch, which is read as a whole or not at all."""
    return [line[: -len(_END)] + MORE for line in lines[:-1]] + lines[-1:]


def mark(namespace: bytes, revision: int, *, pruned_us: int, pruned: int) -> bytes:
    """The line with the highest version of a namespace, and until when what has expired is gone."""
    head = b'{"namespace":"' + namespace + b'",'
    return head + f'"revision":{revision},"pruned_us":{pruned_us},"pruned":{pruned}}}\n'.encode()


def _checksum(match: re.Match[bytes], text: bytes) -> int:
    return zlib.crc32(text[match.end(4) :], zlib.crc32(text[: match.start(4)]))


def _text_of(match: bytes | None) -> str | None:
    try:
        return None if match is None else str(json.loads(b'"' + match + b'"'))
    except ValueError:
        return None
