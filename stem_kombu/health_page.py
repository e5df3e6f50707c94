"""The health file of a worker: what stands where in it, and what a probe concludes from it (G34).

One page that each vital thread of the worker stamps itself. A probe needs nothing else: no broker, no application, and no
module beside this one and five small ones of the standard library, as it runs every few seconds on each host.

The worker holds a lock on its file for as long as it lives, so that a probe can tell a dead worker from one that hangs, also
from another container. Stamps are seconds of the system's monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import fcntl
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Bytes of the file: cells (doubles, as this machine writes them), then text.
SIZE, TEXT_AT = 4096, 2048
MAGIC = b"stem.h/1"
#: Cells by number; the magic takes the first.
PID, STATE, CONSUMED, SYNCED, STARVING, TEXT = 1, 2, 3, 4, 5, 6
#: Where the threads' cells begin, two for each (its stamp, and the seconds that may lie between two), and how many there may be.
THREADS_AT, MOST_THREADS = 32, 48
#: Where the queues' cells begin, one for each (1 while it is paused), and how many there may be.
QUEUES_AT, MOST_QUEUES = 128, 128
STARTING, RUNNING, DRAINING = 0.0, 1.0, 2.0
#: Periods that a thread may be silent for.
PERIODS = 3.0
#: Seconds within which the consumer must have had a turn with its broker: RabbitMQ's silence is noticed after 25, and 45 after a
#: worker has ceased to consume a probe has to say so.
CONSUMES_WITHIN = 15.0
SUFFIX = ".health"
#: Bytes of a file's name that may come from a worker's id.
_LONGEST_NAME = 240
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@._-")


def folders(environ: Mapping[str, str], namespace: str) -> list[str]:
    """Where health files of a namespace may be; the first is where a worker writes one: of this login or service
    (``XDG_RUNTIME_DIR``) where there is one, else in the state folder."""
    found = [environ["XDG_RUNTIME_DIR"]] if environ.get("XDG_RUNTIME_DIR") else []
    home = environ.get("HOME") or "/"
    if sys.platform == "darwin":
        found.append(f"{home}/Library/Application Support")
    else:
        found.append(environ.get("XDG_STATE_HOME") or f"{home}/.local/state")
    return [f"{folder}/stem/{namespace}" for folder in found]


def file_name(worker: str) -> str:
    """The name of that worker's file in its folder: the id, with what no file's name can hold written as ``%XX``, and a checksum
    in place of the end of one that is too long."""
    name = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in worker.encode())
    name = f"%2E{name[1:]}" if name.startswith(".") else name
    if len(name) > _LONGEST_NAME:
        from zlib import crc32

        name = f"{name[: _LONGEST_NAME - 9]}~{crc32(worker.encode()):08x}"
    return f"{name}{SUFFIX}"


def text_of(worker: str, threads: Sequence[str], queues: Sequence[str]) -> bytes:
    """The text of a page: the id, the threads, and as many queues as there is room for, a line each."""
    room = SIZE - TEXT_AT
    lines = [worker, " ".join(threads), *queues[:MOST_QUEUES]]
    while len(text := "\n".join(lines).encode()) > room:
        lines.pop()
    return text


class Page:
    """A health file as it was read. ``alive``: its worker's process is there."""

    def __init__(self, data: bytes, alive: bool) -> None:
        if len(data) < SIZE or data[:8] != MAGIC:
            raise ValueError("it is no health file of this version")
        self.cells = memoryview(data)[:TEXT_AT].cast("d")
        self.alive = alive
        text = data[TEXT_AT : TEXT_AT + int(self.cells[TEXT])].decode(errors="replace")
        self.worker, _, rest = text.partition("\n")
        threads, _, queues = rest.partition("\n")
        self.threads = threads.split()
        self.queues = queues.split("\n") if queues else []
        self.pid = int(self.cells[PID])

    @classmethod
    def at(cls, path: str) -> Page:
        """Raises ``FileNotFoundError`` and other ``OSError``, and ``ValueError`` for a file of another kind."""
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = os.read(handle, SIZE)
            alive = _is_held(handle)
            page = cls(data, True)
            page.alive = _runs(page.pid) if alive is None else alive
            return page
        finally:
            os.close(handle)


def _is_held(handle: int) -> bool | None:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None  # a file system without locks
    return False


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class Health:
    """What is concluded. ``state`` is ``ok``, ``starting``, ``draining``, ``paused``, ``starving``, ``disconnected``, ``stuck``
    or ``gone``; ``threads`` are triples of a name, the seconds since its stamp, and how many it may be silent for;
    ``store_age`` is in seconds, ``None`` until the revoke store was read; ``pid`` is ``None`` where no file was found."""

    def __init__(self, worker: str | None, state: str, message: str) -> None:
        self.worker = worker
        self.state, self.message = state, message
        self.threads: list[tuple[str, float, float]] = []
        self.queues: dict[str, bool] = {}
        self.store_age: float | None = None
        self.pid: int | None = None

    @property
    def live(self) -> bool:
        """Whether the worker's process is there and each of its vital threads moves."""
        return self.state not in ("gone", "stuck")

    @property
    def ready(self) -> bool:
        """Whether it consumes what it should; a worker that drains or is paused does what it was asked."""
        return self.state in ("ok", "draining", "paused")


def health_of(page: Page, now: float) -> Health:
    """How the worker stands; ``now`` is the monotonic clock of its machine."""
    health = Health(page.worker, "ok", "")
    cells = page.cells
    consumed_ago = _ago(cells[CONSUMED], now)
    for number, name in enumerate(page.threads):
        at = THREADS_AT + 2 * number
        if cells[at]:
            health.threads.append((name, max(0.0, now - cells[at]), PERIODS * cells[at + 1]))
    consumes = page.alive and consumed_ago is not None and consumed_ago <= CONSUMES_WITHIN
    paused = cells[QUEUES_AT : QUEUES_AT + MOST_QUEUES]
    health.queues = {name: consumes and not paused[number] for number, name in enumerate(page.queues)}
    health.store_age = _ago(cells[SYNCED], now)
    health.pid = page.pid
    health.state, health.message = _concluded(page, health, consumed_ago, now)
    return health


def _concluded(page: Page, health: Health, consumed_ago: float | None, now: float) -> tuple[str, str]:
    cells = page.cells
    if not page.alive:
        return "gone", f"its process {page.pid} has ended without removing the file"
    late = [
        f"thread {name} has not moved for {age:.0f} s (limit {limit:.0f} s)"
        for name, age, limit in health.threads
        if age > limit
    ]
    if late:
        return "stuck", "; ".join(late)
    if cells[STATE] == DRAINING:
        return "draining", "it finishes what runs, and then ends"
    if health.store_age is None:
        return "starting", "the revoke store has not been read yet"
    if cells[STATE] == STARTING or consumed_ago is None:
        return "starting", "it does not consume yet"
    if consumed_ago > CONSUMES_WITHIN:
        return "disconnected", f"its last turn with the broker was {consumed_ago:.0f} s ago"
    if paused := sum(bool(cell) for cell in cells[QUEUES_AT : QUEUES_AT + MOST_QUEUES]):
        return "paused", f"paused: {paused} of its {len(page.queues)} queues"
    if cells[STARVING]:
        waits = _ago(cells[STARVING], now) or 0.0
        return (
            "starving",
            f"messages wait in its queues and a slot is free, and it has received nothing for {waits:.0f} s",
        )
    return "ok", "it consumes"


def _ago(stamp: float, now: float) -> float | None:
    return max(0.0, now - stamp) if stamp else None
