"""Kombu's folder of messages, with leases: a message that a worker holds is a file in the folder ``.stem-held`` beside them.

A file's name there ends with the lease's own token, and its time of change says when the lease ends, by the hosts' clocks. A file
changes its folder by renaming, which is one step: it is in one of the two places whenever a process is killed. Kombu's own
consumers see only files whose names are those of messages.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stem_kombu import chance, timeouts
from stem_kombu.clock import Clock
from stem_kombu.transports.giving_back import Swept
from stem_kombu.transports.leased.place import Taken

HELD = ".stem-held"
#: Kombu's name of a message: when it was sent (ms, by the sender's monotonic clock) and a UUID; ours counts its deliveries.
_NAME = re.compile(r"(\d*)([^.~]*)(?:~(\d+))?\.(.+)\.msg")


class LeasedFiles:
    """Implements :class:`~stem_kombu.transports.leased.place.LeasedPlace` over the folders of a channel of Kombu's.

    ``lease`` is in seconds."""

    def __init__(self, channel: Any, lease: float, clock: Clock) -> None:
        self._folder = Path(channel.data_folder_in)
        self._held = self._folder / HELD
        self._processed = Path(channel.processed_folder) if channel.store_processed else None
        self._lease, self._clock = lease, clock
        #: Names of messages that waited at the last look into the folder, the oldest at the end.
        self._ahead: list[str] = []

    def take(self, queues: Sequence[str], room: int, acknowledged: Sequence[str] = ()) -> list[Taken]:
        for tag in acknowledged:
            self.remove(tag)
        found: list[Taken] = []
        wanted = set(queues)
        if room and not self._ahead:
            self._ahead = sorted(self._waiting(wanted), key=_order, reverse=True)
            if self._ahead:
                self._held.mkdir(exist_ok=True)
        while self._ahead and len(found) < room:
            name = self._ahead.pop()
            if _queue_of(name) in wanted and (taken := self._taken(name)) is not None:
                found.append(taken)
        return found

    def remove(self, tag: str) -> None:
        with suppress(FileNotFoundError):  # the lease is lost
            if self._processed is None:
                (self._held / tag).unlink()
            else:
                (self._held / tag).replace(self._processed / tag.rpartition("~")[0])

    def give_back(self, tags: Sequence[str]) -> None:
        self._ahead.clear()
        for tag in tags:
            with suppress(FileNotFoundError):
                self._return(tag)

    def set_aside(self, tag: str, queue: str) -> None:
        with suppress(FileNotFoundError):
            (self._held / tag).rename(self._folder / f"{tag.partition('.')[0]}.{queue}.msg")

    def renew(self, tags: Sequence[str], seconds: float) -> list[bool]:
        kept = []
        for tag in tags:
            with self._locked(tag) as file:
                if file is not None:
                    _let_end(file, self._clock.now() + seconds)
                kept.append(file is not None)
        return kept

    def take_back(self) -> Swept:
        returned = left = 0
        for tag in self._leased():
            with self._locked(tag) as file:
                if file is not None and os.fstat(file).st_mtime < self._clock.now():
                    self._return(tag)
                    returned += 1
                elif file is not None:
                    left += 1
        return Swept(returned, left)

    def ping(self) -> None:
        os.stat(self._folder)

    def close(self) -> None:
        with suppress(OSError):  # it is not there, or not empty
            self._held.rmdir()

    def _waiting(self, queues: set[str]) -> list[str]:
        return [path.name for path in self._folder.iterdir() if _queue_of(path.name) in queues]

    def _leased(self) -> list[str]:
        try:
            return [path.name for path in self._held.iterdir() if _queue_of(path.name.rpartition("~")[0]) is not None]
        except FileNotFoundError:
            return []

    def _taken(self, name: str) -> Taken | None:
        """The message, leased; ``None`` where another consumer has it, or its sender has not written it yet."""
        path = self._folder / name
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which Kombu's senders hold while they write
            text = _read(file)
            now = self._clock.now()
            if not text and now - os.fstat(file).st_mtime < timeouts.EMPTY_FILE:
                return None
            tag = f"{name}~{chance.token_hex(4)}"
            # Before it is where others look for leases that are over.
            _let_end(file, now + self._lease)
            path.rename(self._held / tag)
        except (BlockingIOError, FileNotFoundError):
            return None
        finally:
            os.close(file)
        found = _NAME.fullmatch(name)
        assert found is not None
        return Taken(tag, found[4], text.decode("utf-8", "replace"), found[3] is not None)

    def _return(self, tag: str) -> None:
        """Under another name, so that the tag means no later lease of it. Raises ``FileNotFoundError``."""
        found = _NAME.fullmatch(tag.rpartition("~")[0])
        assert found is not None
        sent, unique, count, queue = found.groups()
        (self._held / tag).rename(self._folder / f"{sent}{unique}~{int(count or 0) + 1}.{queue}.msg")

    @contextmanager
    def _locked(self, tag: str) -> Iterator[int | None]:
        """The descriptor of the leased file while no other process renews it or takes it back; ``None`` where the lease is
        lost."""
        path = self._held / tag
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            yield None
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file if path.exists() else None
        finally:
            os.close(file)


def _queue_of(name: str) -> str | None:
    found = _NAME.fullmatch(name)
    return None if found is None else found[4]


def _order(name: str) -> tuple[int, str]:
    found = _NAME.fullmatch(name)
    return (0, name) if found is None else (int(found[1] or 0), name)


def _read(file: int) -> bytes:
    with os.fdopen(os.dup(file), "rb") as reader:
        return reader.read()


def _let_end(file: int, moment: float) -> None:
    os.utime(file, (moment, moment))
