"""The stop table: a Celery worker writes there what its running tasks have to stop for, and their processes read it.

A piece of memory that is shared with the children that are forked later, or a file that those map which are started in
another way. No lock and no signal: the worker writes an entry and then counts up; a task that sees another count looks
for its own id. An entry names the id of its task, so it can't hit the task that runs next in the same child (G8).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
import tempfile
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from stem_kombu.errors import ConfigurationError
from stem_kombu.revocation import Revocation

#: Bytes of one entry: digest, state, length of the record, the record as JSON.
ENTRY = 4096
_HEAD = struct.Struct("16sBxH")
#: Bytes before the first entry: three words, the length of the log levels, the log levels as JSON.
_COUNT = 4096
_WORDS, _LENGTH = 24, struct.Struct("H")
#: States of an entry.
_FREE, _TOLD, _STOPPED = 0, 1, 2


def _digest(task_id: str) -> bytes:
    return hashlib.blake2b(task_id.encode(), digest_size=16).digest()


class SharedStopTable:
    """Room for ``entries`` tasks at a time. Written by one process, under a lock; read by all.

    ``in_file=True`` puts it into a new file, :attr:`path`, for processes that inherit no memory; :meth:`opened` is theirs.
    """

    def __init__(self, entries: int, *, in_file: bool = False) -> None:
        size = _COUNT + entries * ENTRY
        if in_file:
            with tempfile.NamedTemporaryFile(prefix="stem-board-", delete=False) as file:
                file.truncate(size)
            self._map(Path(file.name))
        else:
            self._map(None, size)

    @classmethod
    def opened(cls, path: str) -> SharedStopTable:
        """The table in that file; raises ``OSError``."""
        stop_table = cls.__new__(cls)
        stop_table._map(Path(path))
        return stop_table

    def _map(self, path: Path | None, size: int = 0) -> None:
        #: The file that it is in, ``None`` for memory that is only inherited.
        self.path = path
        if path is None:
            self._memory = mmap.mmap(-1, size)
        else:
            with path.open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), 0)
        self._entries = (len(self._memory) - _COUNT) // ENTRY
        #: ``words[0]`` counts the changes: a task compares it at each checkpoint, nothing is cheaper. ``words[1]`` is the
        #: number of places that were ever used. ``words[2]`` counts changes of the log levels; it is odd during one.
        self.words = memoryview(self._memory).cast("Q")
        self._lock = threading.Lock()
        self._places: dict[str, int] = {}

    # -- the worker's side --------------------------------------------------------------------------------------------

    def mark(self, revocation: Revocation, running: Collection[str]) -> None:
        """Show a revocation to the process that runs its task. ``running`` are the tasks whose entries are still needed.

        Raises :class:`ConfigurationError` when more tasks are asked to stop at a time than there is room for.
        """
        record = _shortened(revocation)
        with self._lock:
            if self._state(revocation.task_id) == _STOPPED:
                return  # the worker has not learned of that yet
            place = self._place(revocation.task_id, running)
            at = _COUNT + place * ENTRY
            # The digest goes first and comes last: a task that finds it finds all of the entry, or another count afterwards.
            self._memory[at : at + 16] = bytes(16)
            self.words[0] += 1
            _HEAD.pack_into(self._memory, at, bytes(16), _TOLD, len(record))
            self._memory[at + _HEAD.size : at + _HEAD.size + len(record)] = record
            self._memory[at : at + 16] = _digest(revocation.task_id)
            self.words[1] = max(self.words[1], place + 1)
            self.words[0] += 1

    def unmark(self, task_ids: Collection[str]) -> None:
        """Let these tasks start and go on, as far as they have not stopped."""
        with self._lock:
            for task_id in task_ids:
                if self._state(task_id) == _TOLD:
                    at = _COUNT + self._places.pop(task_id) * ENTRY
                    self._memory[at : at + 16] = bytes(16)

    def stopped(self, task_id: str) -> bool:
        """Whether the task has seen its entry and stopped."""
        with self._lock:
            return self._state(task_id) == _STOPPED

    def _state(self, task_id: str) -> int:
        place = self._places.get(task_id)
        return _FREE if place is None else self._memory[_COUNT + place * ENTRY + 16]

    def set_levels(self, levels: Mapping[str, str]) -> int:
        """Show to all processes from which level on loggers log, and which change of them that is. What has no room, after many
        loggers, is not shown."""
        begin = _WORDS + _LENGTH.size
        with self._lock:
            shown = list(levels.items())
            while len(record := json.dumps(dict(shown)).encode()) > _COUNT - begin:
                shown.pop()
            self.words[2] += 1
            _LENGTH.pack_into(self._memory, _WORDS, len(record))
            self._memory[begin : begin + len(record)] = record
            self.words[2] += 1
            self.words[0] += 1
            return int(self.words[2])

    def close(self) -> None:
        """Remove its file, if it has one. Who has it open keeps it."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _place(self, task_id: str, running: Collection[str]) -> int:
        if task_id in self._places:
            return self._places[task_id]
        if len(self._places) >= self._entries:
            self._places = {known: place for known, place in self._places.items() if known in running}
        taken = set(self._places.values())
        place = next((number for number in range(self._entries) if number not in taken), None)
        if place is None:
            raise ConfigurationError(
                f"{self._entries} running tasks have stop requests already",
                hint="wait until some have reached a checkpoint",
            )
        self._places[task_id] = place
        return place

    # -- the task's side ------------------------------------------------------------------------------------------------

    def find(self, task_id: str) -> Revocation | None:
        """The revocation of the task, ``None`` when there is none."""
        if not self.words[1]:
            return None  # no task was ever asked to stop; each one that begins looks here
        while (at := self._at(task_id)) is not None:
            count = self.words[0]
            digest, _, length = _HEAD.unpack_from(self._memory, at)
            record = self._memory[at + _HEAD.size : at + _HEAD.size + length]
            # The worker may have written the entry anew meanwhile, for a revoke that says more: then this is half of each.
            if digest == _digest(task_id) and self.words[0] == count:
                return Revocation.from_record(json.loads(record))
        return None

    def levels(self) -> tuple[dict[str, str], int] | None:
        """The log levels, and which change of them that is; ``None`` while they change."""
        count, begin = int(self.words[2]), _WORDS + _LENGTH.size
        (length,) = _LENGTH.unpack_from(self._memory, _WORDS)
        record = self._memory[begin : begin + length]
        if count % 2 or self.words[2] != count:
            return None
        return (json.loads(record) if count else {}), count

    def stop(self, task_id: str) -> None:
        """Say that the task has stopped for its entry."""
        if (at := self._at(task_id)) is not None:
            self._memory[at + 16] = _STOPPED

    def _at(self, task_id: str) -> int | None:
        wanted = _digest(task_id)
        for place in range(self.words[1]):
            at = _COUNT + place * ENTRY
            if self._memory[at : at + 16] == wanted:
                return at
        return None


def _shortened(revocation: Revocation) -> bytes:
    """The record as JSON that fits into an entry: a long reason is cut, nothing else."""
    record = revocation.to_record()
    room = ENTRY - _HEAD.size
    while len(encoded := json.dumps(record).encode()) > room:
        reason = record["reason"] or record["requested_by"]
        key = "reason" if record["reason"] else "requested_by"
        record[key] = f"{reason[: len(reason) // 2]}…"
    return encoded
