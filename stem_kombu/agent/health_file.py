"""The worker's side of its health file: made before anything else, stamped by its vital threads, removed at its end (G34).

Two workers of one host may want the same place: a second one under an id that is taken, which is refused soon, or one of the same
name with another broker. The file stays the living one's until the other has its id; and what is gone is put back.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from stem_kombu import health_page, machine
from stem_kombu.concurrency.pulse import Pulses
from stem_kombu.control.server.worker_view import WorkerIdentity
from stem_kombu.drivers import forking
from stem_kombu.environment import environment
from stem_kombu.errors import ConfigurationError
from stem_kombu.health_page import (
    MOST_QUEUES,
    MOST_THREADS,
    QUEUES_AT,
    SIZE,
    STARVING,
    STATE,
    TEXT_AT,
    THREADS_AT,
    Page,
)
from stem_kombu.settings import Settings

logger = logging.getLogger(__name__)


class HealthFile:
    """The file of one worker. What shows something does nothing where there is none. Safe from any thread, but :meth:`keep`
    only where nothing starts or stops it at that moment.

    Where it is says ``settings.health_file``: a path, ``off``, or ``None`` for the usual place.
    """

    def __init__(self, settings: Settings, who: WorkerIdentity, pulses: Pulses) -> None:
        self._given, self._who = settings.health_file, who
        self._pulses = pulses
        #: Of the file, whose only descriptor is that of the mapping.
        self._inode: int | None = None
        self._page = memoryview(bytearray(SIZE))
        self._cells = self._page[:TEXT_AT].cast("d")
        self._queues: tuple[str, ...] = ()
        self._state = health_page.STARTING
        #: Where it is to be, ``None`` where there is to be none.
        self.path: Path | None = None
        self._told: set[str] = set()
        self._stamp_here()
        forking.renew_in_children(self)

    def start(self) -> None:
        """Have the file, with the state ``starting``, unless a live worker has it: see :meth:`claim`. May be called twice.

        Raises :class:`ConfigurationError` where the path was given and can't be written; the usual one is then done without.
        """
        if self.path is not None:
            return
        self._state = health_page.STARTING
        self._stamp_here()  # also where there is no file: probes by HTTP and systemd's watchdog read the page itself
        if self._given == "off":
            return
        who = self._who
        if self._given is not None:
            path = Path(self._given).absolute()
        else:
            path = Path(health_page.folders(environment(), who.namespace)[0], health_page.file_name(who.worker))
        try:
            if self._given is None:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _sweep(path.parent)
            if self._holder(path) is None:
                self._make(path)
        except OSError as error:
            why = f"health file {path}: {error.strerror or error}"
            if self._given is not None:
                raise ConfigurationError(why, hint="let this user write that file, or give another path") from error
            logger.warning("%s; probes of this worker find nothing. Set STEM_HEALTH_FILE to a path, or to off", why)
            return
        self.path = path

    def claim(self) -> None:
        """Have the file, now that the id is this worker's: a live worker that has it is of another fleet, or hangs."""
        path = self.path
        if path is None:
            return
        if (holder := self._holder(path)) is not None:
            self._warn(
                "health file %s is in use by process %d, which is alive; this worker takes it. "
                "Give one of the two another id, or another STEM_HEALTH_FILE",
                path,
                holder,
            )
            self._put_back(path)
        else:
            self.keep()

    def keep(self) -> None:
        """Put the file back where it is gone: removed with its folder, or by another worker that had it meanwhile."""
        path = self.path
        if path is not None and not self._is_here(path) and self._holder(path) is None:
            self._put_back(path)

    def show(self, state: float, queues: Sequence[str] = ()) -> None:
        """Show how far its life is (:data:`stem_kombu.health_page.RUNNING` …), and which queues it should consume."""
        if queues:
            self._queues = tuple(queues)
            self._write_text()
        # In this order: a thread that just now puts the file back writes the state after it has changed the cells.
        self._state = state
        self._cells[STATE] = state

    def show_starving(self, since: float) -> None:
        """Since when (monotonic) messages wait that this worker does not get; 0 when that is not so."""
        self._cells[STARVING] = since

    def show_paused(self, queues: Collection[str]) -> None:
        """Which of the queues are paused."""
        for number, queue in enumerate(self._queues[:MOST_QUEUES]):
            self._cells[QUEUES_AT + number] = float(queue in queues)

    def read(self) -> Page:
        """The page as a probe reads it, without the file."""
        return Page(bytes(self._page), True)

    def stop(self) -> None:
        """Remove the file. May be called twice, and before a start."""
        path, self.path = self.path, None
        if path is None:
            return
        with suppress(OSError):
            if self._is_here(path):
                path.unlink()
        self._let_go()

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`: the file stays the parent's, which is dead when nothing else holds its lock."""
        self.path = None
        self._let_go()

    def _is_here(self, path: Path) -> bool:
        """Whether the file at its place is this worker's own."""
        try:
            return path.stat().st_ino == self._inode
        except OSError:
            return False

    def _holder(self, path: Path) -> int | None:
        """The process of another live worker whose file it is."""
        if self._is_here(path):
            return None
        try:
            page = Page.at(str(path))
        except (OSError, ValueError):
            return None
        return page.pid if page.alive else None

    def _put_back(self, path: Path) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make(path)
        except OSError as error:
            why = error.strerror or error
            self._warn("health file %s is gone and can't be put back: %s; probes of this worker fail", path, why)

    def _warn(self, text: str, *arguments: object) -> None:
        """Once a worker: :meth:`keep` is called with each heartbeat."""
        if text not in self._told:
            self._told.add(text)
            logger.warning(text, *arguments)

    def _make(self, path: Path) -> None:
        """Under another name first, so that no probe meets half a file, nor one without its lock."""
        draft = path.with_name(f".{path.name[:200]}.{machine.getpid()}")
        draft.unlink(missing_ok=True)
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, bytes(SIZE))  # written, not only as long: a full disk is met here, and not by a stamp
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mapped = memoryview(mmap.mmap(handle, SIZE))
            mapped[:] = self._page
            self._page, self._cells = mapped, mapped[:TEXT_AT].cast("d")
            self._stamp_here()
            self._inode = os.fstat(handle).st_ino
            draft.replace(path)
        except BaseException:
            self._let_go()
            self._stamp_here()  # for probes that read the page without a file
            draft.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)  # the mapping has a duplicate, which keeps the lock

    def _stamp_here(self) -> None:
        pulses, cells = self._pulses, self._cells
        self._page[: len(health_page.MAGIC)] = health_page.MAGIC
        cells[health_page.PID], cells[STATE] = float(machine.getpid()), self._state
        self._write_text()
        pulses.consumed.show_in(cells[health_page.CONSUMED :])
        pulses.synced.show_in(cells[health_page.SYNCED :])
        for number, pulse in enumerate(pulses.threads[:MOST_THREADS]):
            at = THREADS_AT + 2 * number
            cells[at + 1] = pulse.period
            pulse.show_in(cells[at:])

    def _write_text(self) -> None:
        text = health_page.text_of(self._who.worker, [pulse.name for pulse in self._pulses.threads], self._queues)
        # It only grows: a probe that reads it just now sees what was there, or all of it.
        self._page[TEXT_AT : TEXT_AT + len(text)] = text
        self._cells[health_page.TEXT] = float(len(text))

    def _let_go(self) -> None:
        for pulse in (self._pulses.consumed, self._pulses.synced, *self._pulses.threads):
            pulse.hide()
        # Not closed: a thread may be writing its stamp just now. The last to let go of the mapping ends it, and its lock.
        self._page = memoryview(bytearray(self._page))
        self._cells = self._page[:TEXT_AT].cast("d")


def _sweep(folder: Path) -> None:
    """Remove what workers left here that were killed: files whose lock nothing holds."""
    for path in folder.glob(f"*{health_page.SUFFIX}"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(handle)
