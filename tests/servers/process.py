"""A server process that belongs to the test session: started, stopped, killed, paused and restarted by its own pid."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from stem_kombu.testing.ports import free_port
from tests.waiting import eventually


class ServerMissing(Exception):
    """This machine has no such server; the message names what is missing and how it is provided."""


class Reaper:
    """Sees to it that nothing outlives the session: see ``reaper.py``."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("reaper.py")), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def order(self, verb: str, what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{verb} {what}\n".encode())
        self._process.stdin.flush()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


class ServerProcess(ABC):
    """One server on ``host``:``port``, with its files in ``directory``. The port stays the same over every restart."""

    #: What people call it.
    name: str
    host = "127.0.0.1"
    start_timeout = 60.0
    #: The signal that asks it to stop in order.
    stop_signal = signal.SIGTERM
    #: Seconds after which it is asked again.
    asked_again = 30.0

    def __init__(self, reaper: Reaper, *, port: int | None = None) -> None:
        self.port = free_port(self.host) if port is None else port
        self.directory = Path(tempfile.mkdtemp(prefix=f"stem-test-{self.name.lower()}-"))
        self.log = self.directory / "server.log"
        self._reaper = reaper
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False
        reaper.order("remove", self.directory)

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL that a client of this server is given."""

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Return once it answers. Does nothing when it runs, resumes it when it is paused."""
        if self.running:
            self.resume()
            return
        self.prepare()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                env={**os.environ, **self.environment()},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._reaper.order("kill", self._process.pid)
        eventually(self._has_come_up, self.start_timeout, self._log_tail, interval=0.02)

    def stop(self) -> None:
        """Ask it to stop in order and return once it has; after 30 s it is killed."""
        if not self.running:
            return
        self.resume()
        for _ in range(round(30 / self.asked_again)):
            _signal(self.pid, self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._ended(self.asked_again)
                return
        self.kill()

    def kill(self) -> None:
        """SIGKILL, to all of its processes: no last word to clients or files."""
        if not self.running:
            return
        for pid in [self.pid, *_descendants(self.pid)]:
            _signal(pid, signal.SIGKILL)
        self._ended(30)

    def restart(self) -> None:
        """Stop in order, start again with the same files on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        for pid in [self.pid, *_descendants(self.pid)]:
            _signal(pid, signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT, the end of :meth:`pause`."""
        if self._paused:
            for pid in [self.pid, *_descendants(self.pid)]:
                _signal(pid, signal.SIGCONT)
            self._paused = False

    def close(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @abstractmethod
    def prepare(self) -> None:
        """Make what the server needs before each start."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command whose process is the server itself, in the foreground."""

    def environment(self) -> Mapping[str, str]:
        """Variables beside the session's own."""
        return {}

    @abstractmethod
    def answers(self) -> bool:
        """Whether it serves clients by now; an ``OSError`` counts as no."""

    def _has_come_up(self) -> bool:
        if not self.running:
            raise RuntimeError(self._log_tail())
        try:
            return self.answers()
        except OSError:
            return False

    def _ended(self, timeout: float) -> None:
        assert self._process is not None
        self._process.wait(timeout)
        self._paused = False
        self._reaper.order("forget", self._process.pid)

    def _log_tail(self) -> str:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
        return f"{self.name} on port {self.port} did not start:\n{tail}\n"

    def __repr__(self) -> str:
        return f"<{self.name} on port {self.port}, {'running' if self.running else 'stopped'}>"


def find_program(name: str, *patterns: str) -> str | None:
    """The path of a program: by the first glob pattern that fits, highest version first, else from PATH."""
    for pattern in patterns:
        for path in sorted(Path("/").glob(pattern.lstrip("/")), key=lambda found: _numbers(str(found)), reverse=True):
            if os.access(path, os.X_OK):
                return str(path)
    return shutil.which(name)


def conversation(host: str, port: int, said: bytes, timeout: float = 1.0) -> bytes:
    """The first bytes that a server answers to ``said``."""
    with socket.create_connection((host, port), timeout) as connection:
        connection.sendall(said)
        return connection.recv(4096)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in "".join(sign if sign.isdigit() else " " for sign in text).split()]


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended between the look and the signal
        os.kill(pid, number)


def _descendants(ancestor: int) -> list[int]:
    """The pids of all that ``ancestor`` started. PostgreSQL's backends lead groups of their own: killpg misses them."""
    children: dict[int, list[int]] = {}
    for pid, parent in _all_processes():
        children.setdefault(parent, []).append(pid)
    found, unseen = [], [ancestor]
    while unseen:
        below = children.get(unseen.pop(), [])
        found += below
        unseen += below
    return found


def _all_processes() -> list[tuple[int, int]]:
    """(pid, parent's pid) of every process."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        return [(int(pid), int(parent)) for pid, parent in map(str.split, listed.splitlines())]
    pairs = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue  # it ended meanwhile
            pairs.append((int(entry.name), int(stat.rpartition(")")[2].split()[1])))
    return pairs
