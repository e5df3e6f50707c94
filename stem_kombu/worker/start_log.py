"""Which inline attempts a worker has begun, in a file that outlives its process.

A ``running`` record is written a moment after the handler has begun, together with others; a handler that ends its worker
at once is quicker. What is copied into a mapped file is there after SIGKILL, for about a microsecond a task. The next worker
of the same fleet on this machine reads it, and records what its predecessor could not.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import mmap
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stem_kombu import timeouts
from stem_kombu.backends.base import TaskStates
from stem_kombu.clock import Clock
from stem_kombu.errors import StoreError
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.task import TaskMessage

logger = logging.getLogger(__name__)

#: Bytes of one start, and how many the file holds beside its head: only those of the last moments matter.
_PLACE, _PLACES = 512, 255
_SIZE = _PLACE * (_PLACES + 1)


class StartLog:
    """The file of one worker's life, and those that dead workers have left. Where there can't be one, nothing is noted."""

    def __init__(self, states: TaskStates | None, namespace: str, worker: str, boot: str, clock: Clock) -> None:
        self._states = states
        self._holder = worker, boot
        self._clock = clock
        place = "" if states is None else states.url
        self._fleet = hashlib.sha256(f"{namespace}\0{place}".encode()).hexdigest()[:16]
        self._folder = Path(tempfile.gettempdir()) / f"stem-starts-{os.getuid()}"
        self._path = self._folder / f"{self._fleet}-{boot}"
        self._map: mmap.mmap | None = None
        self._descriptor: int | None = None
        self._at = 0

    def start(self) -> None:
        """Record what dead workers have left, and begin a file. Raises nothing."""
        if self._states is None or self._descriptor is not None:
            return
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            found = self._folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                return
            for path in self._folder.iterdir():
                if path.name.startswith(f"{self._fleet}-"):
                    self._recover(self._states, path)
                else:
                    self._sweep(path)
            self._begin()
        except OSError as error:
            logger.info("starts of inline tasks are not noted in %s: %s", self._folder, error)

    def note(self, message: TaskMessage) -> None:
        """The handler of that attempt is about to be called."""
        file = self._map
        if file is None:
            return
        line = f"{message.task_id}\t{message.attempt}\t{message.name}".encode("utf-8", "replace")
        if len(line) < _PLACE:
            self._at = self._at % _PLACES + 1
            file[self._at * _PLACE : (self._at + 1) * _PLACE] = line.ljust(_PLACE, b"\n")

    def stop(self) -> None:
        """The worker is stopping: how it ends says nothing of what it runs."""
        self._map = None  # not closed: another thread may be about to write
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                self._path.unlink()
            os.close(descriptor)

    def _begin(self) -> None:
        worker, boot = self._holder
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends, however it does
        os.ftruncate(self._descriptor, _SIZE)
        self._map = mmap.mmap(self._descriptor, _SIZE)
        self._map[:_PLACE] = f"{worker}\t{boot}".encode()[:_PLACE].ljust(_PLACE, b"\n")

    def _recover(self, states: TaskStates, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return  # another worker has just read it
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # its worker lives
            noted = os.read(descriptor, _SIZE).decode("utf-8", "replace")
            try:
                for record in self._left(states, noted):
                    states.record([record])
            except StoreError as error:
                logger.warning("could not record which tasks a lost worker had started: %s", error)
                return
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def _sweep(self, path: Path) -> None:
        """Delete what a worker of another fleet left long ago."""
        with suppress(FileNotFoundError, BlockingIOError):
            if path.lstat().st_mtime < self._clock.now() - timeouts.START_FILE_KEPT:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)
                finally:
                    os.close(descriptor)

    def _left(self, states: TaskStates, noted: str) -> Iterator[TaskRecord]:
        """The attempts that were begun and never recorded as begun."""
        first, *lines = [line for line in noted.replace("\0", "").split("\n") if line] or [""]
        worker, _, boot = first.partition("\t")
        for line in lines:
            task_id, _, rest = line.partition("\t")
            attempt, _, name = rest.partition("\t")
            if not (task_id and name and attempt.isascii() and attempt.isdigit()):
                continue
            held = states.get(task_id)
            if held is None or held.state is TaskState.QUEUED or held.attempt < int(attempt):
                began = held or TaskRecord(task_id, name, TaskState.RUNNING)
                yield TaskRecord(
                    task_id,
                    name,
                    TaskState.RUNNING,
                    int(attempt),
                    queue=began.queue,
                    worker=worker,
                    enqueued_at=began.enqueued_at,
                    started_at=self._clock.utcnow(),
                    boot=boot,
                    lost_workers=began.lost_workers,
                    retried_from=began.retried_from,
                )
