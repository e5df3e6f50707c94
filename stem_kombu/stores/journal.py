"""An append-only file of lines that several processes write: locked, synced, repaired after a crash.

It knows bytes, batches and crashes, and nothing of revocations. A batch is one or more lines; every line but the last
one of a batch ends with :data:`MORE`, so that a batch is there as a whole or not at all. The first line is a header.

Writers hold an exclusive ``flock`` on a sidecar file (the journal itself is replaced when it is rewritten) through
write and fsync; readers take a shared one only to find out where the last whole batch ends, and then read without any
lock, because what lies before that point never changes.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stem_kombu import chance
from stem_kombu.errors import StoreCorrupt, StoreError, StoreUnavailable
from stem_kombu.stores.locking import FileLocks, named

logger = logging.getLogger(__name__)

_HEADER = re.compile(rb'\{"stem_revocations":1,"file":"[0-9a-f]{16}"\}\n')
_HEADER_START = b'{"stem_revocations":1,"file":"'
HEADER_LENGTH = len(_HEADER_START) + 16 + len(b'"}\n')
#: How a line ends when its batch goes on in the next one.
MORE = b',"more":true}\n'
_BLOCK = 1 << 16
#: Bytes at the end of what was read by which it is known again.
_TAIL = 64
#: A last line that is whole, but for its newline.
_DAMAGED_END = re.compile(rb'"crc":"[0-9a-f]{8}"\}[^\n]\Z')
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class Extent:
    """The part of one file that holds whole batches.

    ``header`` is the file's first line, which names it: an inode's number is given to another file as soon as it is
    free. ``end`` is where the last whole batch ends, 0 when there is no file or no batch yet. ``seen`` is what stat
    said; empty when the file goes on behind the end, for then equal sizes would not mean equal content. ``tail`` is how the
    part ends; ``history`` counts how often this process found another file, or other content, where it had read before.
    """

    header: bytes = b""
    end: int = 0
    seen: tuple[int, ...] = ()
    tail: bytes = b""
    history: int = 0

    def continues(self, earlier: Extent) -> bool:
        """Whether this is what was read earlier, and perhaps more of it."""
        return self.header == earlier.header and self.history == earlier.history and self.end >= earlier.end


class Journal:
    """One file and its lock. Nothing is kept open between two calls, so forks and threads need no care.

    Raises :class:`StoreUnavailable` when the file can't be read or written, the disk is full, or the lock is not had in
    time, and :class:`StoreCorrupt` when the file is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"file://{path}"
        self._lock_path = path.with_name(path.name + ".lock")
        self._locks = FileLocks(self.url)

    def extent(self, known: Extent) -> Extent:
        """Where whole batches end now; ``known`` itself, at the price of one stat, when nothing changed since."""
        with self._translated("read"):
            if known.seen and known.seen == _seen(self.path):
                return known
        with self._locked(exclusive=False) as held:
            if not held:
                return Extent(history=known.history + bool(known.end))
            with self._translated("read"), self._opened(os.O_RDONLY) as file:
                return Extent(history=known.history + bool(known.end)) if file < 0 else self._whole(file, known)

    def lines(self, extent: Extent, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Each line from ``start`` (0 skips the header) to the extent's end, with the offset behind it.

        Raises :class:`Replaced` when the file is no longer the one that the extent was taken of.
        """
        offset = start or HEADER_LENGTH
        if offset >= extent.end:
            return
        with self._translated("read"), self._opened(os.O_RDONLY) as file:
            if file < 0 or os.pread(file, HEADER_LENGTH, 0) != extent.header:
                raise Replaced(f"revoke store {self.url}: the file was replaced while it was about to be read")
            with os.fdopen(os.dup(file), "rb", buffering=1 << 18) as stream:
                stream.seek(offset)
                while offset < extent.end:
                    line = stream.readline()
                    offset += len(line)
                    yield offset, line

    def lines_at(self, starts: Sequence[int]) -> list[bytes]:
        """The lines that begin at these offsets; call it while :meth:`writing`, or the file may be another one."""
        if not starts:
            return []
        with self._translated("read"), self.path.open("rb") as stream:
            return [stream.readline() for start in starts if stream.seek(start) >= 0]

    def line_number(self, offset: int) -> int:
        """The number, from 1, of the line that ends at the offset: for error messages."""
        with contextlib.suppress(OSError), self.path.open("rb") as stream:
            return sum(stream.read(min(_BLOCK, offset - at)).count(b"\n") for at in range(0, offset, _BLOCK))
        return 0

    @contextlib.contextmanager
    def writing(self, known: Extent | None = None) -> Iterator[Extent]:
        """Hold the write lock; yields the extent, after the torn end of a crashed writer was cut off.

        The file itself is locked as well as the sidecar: a sidecar that a cleaner removes is made anew by the next writer,
        who would then write beside this one.
        """
        with self._locked(exclusive=True), self._translated("write"), self._owned() as file:
            extent = self._whole(file, known or Extent())
            torn = os.fstat(file).st_size - extent.end
            if torn:
                logger.warning("%s: cut off %d bytes that a crashed writer left at the end", self.url, torn)
                os.ftruncate(file, extent.end)
            yield extent

    @contextlib.contextmanager
    def _owned(self) -> Iterator[int]:
        """The open file, locked, which has this name."""
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                with self._locks.held(file, self.path, exclusive=True) as is_named:
                    if is_named:
                        yield file
                        return
            finally:
                os.close(file)

    def append(self, extent: Extent, batch: Iterable[bytes]) -> Extent:
        """The extent after the batch was added and synced; call it while :meth:`writing`.

        When the disk is full or fails, what was written of it is taken back and :class:`StoreUnavailable` raised;
        :class:`Replaced` when another file has this name by now.
        """
        header = extent.header or _new_header()
        content = b"".join(batch) if extent.end else header + b"".join(batch)
        with self._opened(os.O_RDWR) as file:
            if extent.end and os.pread(file, HEADER_LENGTH, 0) != extent.header:
                raise Replaced(f"revoke store {self.url}: the file was replaced while it was about to be written")
            if extent.end and os.pread(file, 1, extent.end - 1) != b"\n":
                content = b"\n" + content  # after a last line whose end was damaged
            try:
                os.lseek(file, extent.end, os.SEEK_SET)
                _write_all(file, content)
                os.fsync(file)
            except BaseException:
                os.ftruncate(file, extent.end)
                raise
            if not extent.end:
                _sync_folder(self.path.parent)
            if not named(self.path, file):
                raise Replaced(f"revoke store {self.url}: another process removed the file while it was written")
            end = extent.end + len(content)
            return Extent(header, end, _seen(file), content[-_TAIL:], extent.history)

    def rewrite(self, lines: Iterable[bytes]) -> Extent:
        """The extent after the file was replaced by one with these lines; call it while :meth:`writing`."""
        prefix = f".{self.path.name}."
        for leftover in self.path.parent.glob(f"{glob.escape(prefix)}*.tmp"):
            leftover.unlink(missing_ok=True)  # of a process that was killed here: the lock is ours
        header = _new_header()
        file, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=self.path.parent)
        try:
            with os.fdopen(file, "wb", buffering=1 << 18) as stream:
                stream.write(header)
                stream.writelines(lines)
                stream.flush()
                os.fchmod(stream.fileno(), self.path.stat().st_mode & 0o777)
                os.fsync(stream.fileno())
                end = stream.tell()
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_folder(self.path.parent)
        with self._opened(os.O_RDONLY) as written:
            return Extent(header, end, _seen(written), os.pread(written, min(_TAIL, end), max(0, end - _TAIL)))

    def keep(self, lines: Iterable[bytes]) -> Path:
        """The file beside this one to which the lines were added, and synced."""
        aside = self.path.with_name(self.path.name + ".set-aside")
        with self._translated("write"), aside.open("ab") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        return aside

    def ping(self) -> None:
        """Return when the file can be read and written, or made."""
        folder = self.path.parent
        if not folder.is_dir():
            raise self._no_folder()
        target = self.path if self.path.exists() else folder
        if not os.access(target, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise StoreUnavailable(
                f"revoke store {self.url}: this user may not write {target}", hint="change its owner or mode"
            )

    def _whole(self, file: int, known: Extent) -> Extent:
        """The extent of an open file, found from its end; needs a lock."""
        seen = _seen(file)
        size = seen[2]
        header = os.pread(file, HEADER_LENGTH, 0)
        if not _HEADER.fullmatch(header):
            if size < HEADER_LENGTH and (_HEADER_START.startswith(header) or header.startswith(_HEADER_START)):
                # Nothing yet, or the very first write was torn.
                return Extent(history=known.history + bool(known.end))
            raise StoreCorrupt(
                f"revoke store {self.url}, line 1: {header!r} is not how a file of revocations begins",
                hint="name another file; this one was left as it is",
            )
        end = self._end(file, size)
        tail = os.pread(file, min(_TAIL, end), end - min(_TAIL, end))
        same = known.header == header and end >= known.end
        same = same and os.pread(file, len(known.tail), known.end - len(known.tail)) == known.tail
        history = known.history + (bool(known.end) and not same)
        return Extent(header, end, seen if end == size else (), tail, history)

    def _end(self, file: int, size: int) -> int:
        """Where the last whole batch ends."""
        if _DAMAGED_END.search(os.pread(file, _TAIL, max(0, size - _TAIL))):
            return size  # no crash leaves a byte behind a whole line but its newline: one that was changed
        upper = size
        while upper > HEADER_LENGTH:
            lower = max(HEADER_LENGTH, upper - _BLOCK)
            start = lower - len(
                MORE
            )  # so that the ending of a line can be read whose newline is the block's first byte
            block = os.pread(file, upper - start, start)
            at = len(block)
            while (at := block.rfind(b"\n", lower - start, at)) >= 0:
                if not block.endswith(MORE, 0, at + 1):
                    return start + at + 1
            upper = lower
        return HEADER_LENGTH

    @contextlib.contextmanager
    def _locked(self, *, exclusive: bool) -> Iterator[bool]:
        """Hold the sidecar's lock; yields False when there is nothing to lock, which only a reader may meet."""
        while True:
            try:
                file = self._open_lock(exclusive)
            except OSError as error:
                if error.errno in _NOTHING_THERE and not self.path.parent.is_dir():
                    raise self._no_folder() from error
                raise StoreUnavailable(
                    f"revoke store {self.url}: can't open {self._lock_path}: {error.strerror}",
                    hint="make the file, its .lock and their folder readable and writable for this user",
                ) from error
            if file is None:
                yield False
                return
            try:
                with self._locks.held(file, self._lock_path, exclusive=exclusive) as is_named:
                    if is_named:  # else it was removed while this process waited for it
                        yield True
                        return
            finally:
                os.close(file)

    def _open_lock(self, exclusive: bool) -> int | None:
        if not exclusive:
            # A reader makes no sidecar for a file that is absent, and needs no right to write to the folder.
            with contextlib.suppress(FileNotFoundError):
                return os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
            if not self.path.exists():
                if self.path.parent.is_dir():
                    return None
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return os.open(self._lock_path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)

    @contextlib.contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        """A descriptor of the file, or -1 when it is to be read and does not exist."""
        try:
            file = os.open(self.path, flags | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            if flags & (os.O_CREAT | os.O_WRONLY):
                raise
            yield -1
            return
        try:
            yield file
        finally:
            os.close(file)

    @contextlib.contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "make the file and its folder readable and writable for this user"
            if error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)):
                hint = f"make room on the disk of {self.path.parent}; nothing of the batch was kept"
            raise StoreUnavailable(f"revoke store {self.url}: can't {verb} it: {error.strerror}", hint=hint) from error

    def _no_folder(self) -> StoreError:
        folder = self.path.parent
        return StoreUnavailable(
            f"revoke store {self.url}: there is no folder {folder}", hint=f"create it: mkdir -p {folder}"
        )


class Replaced(StoreUnavailable):
    """Another process rewrote the file between finding its extent and reading it; take the extent again."""


def _new_header() -> bytes:
    return _HEADER_START + chance.token_hex(8).encode() + b'"}\n'


def _seen(file: int | Path) -> tuple[int, ...]:
    try:
        found = os.fstat(file) if isinstance(file, int) else file.stat()
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _write_all(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)  # or a power cut could forget the file's name
    finally:
        os.close(file)
