"""The laboratory: private servers, a folder, and processes that end with it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from stem_kombu.settings import Settings
from tests.servers.postgres import PostgresServer
from tests.servers.process import Reaper, ServerProcess
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer

ROOT = Path(__file__).parent.parent
BROKERS = ("redis", "rabbitmq")


class Process:
    """A process whose output goes to a file, so that waiting for a line costs it nothing."""

    def __init__(self, arguments: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        with log.open("wb") as out:
            self.popen = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
            )

    def wait_for(self, text: str, timeout: float = 60.0) -> None:
        """Return when it has written that."""
        deadline = time.monotonic() + timeout
        while text not in self.log.read_text(errors="replace"):
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.popen.args} never said {text!r}:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.01)

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(15)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


class Lab:
    """``with Lab(rounds) as lab``: servers start when they are first asked for."""

    def __init__(self, rounds: int = 5) -> None:
        self.rounds = rounds
        self._servers: dict[str, ServerProcess] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="stem-bench-")
        self.folder = Path(self._folder.name)
        self._numbers = iter(range(1_000_000))

    def __enter__(self) -> Lab:
        self._reaper = Reaper()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for server in self._servers.values():
            server.close()
        self._reaper.close()
        self._folder.cleanup()

    def url(self, kind: str) -> str:
        """A new database or virtual host."""
        kinds: dict[str, Callable[..., ServerProcess]] = {
            "redis": RedisServer, "rabbitmq": RabbitServer, "postgres": PostgresServer,
        }  # fmt: skip
        if kind == "embedded":
            return f"sqlite://{self.path('broker.db')}"
        if kind not in self._servers:
            # Enough for 5,000 simulated workers, as far as this machine's limit of open files goes. On RabbitMQ they take 1.5 to
            # 2.2 GB: at a limit of 2 GB it takes no messages any more, and so no answers.
            roomy: dict[str, dict[str, Any]] = {
                "redis": {"options": ["--maxclients", "18000"]}, "rabbitmq": {"memory": "8GB"},
            }  # fmt: skip
            self._servers[kind] = kinds[kind](self._reaper, **roomy.get(kind, {}))
            self._servers[kind].start()
        server = self._servers[kind]
        if isinstance(server, RabbitServer):
            return server.new_vhost()
        assert isinstance(server, RedisServer | PostgresServer)
        return server.new_database()

    def server(self, kind: str) -> ServerProcess:
        """The server itself, once a URL of it was asked for."""
        return self._servers[kind]

    def path(self, name: str) -> Path:
        """A file of its own."""
        return self.folder / f"{next(self._numbers)}-{name}"

    def settings(self, broker: str, backend: str | None = None, **more: object) -> Settings:
        """Settings with states and revocations on Redis, unless ``backend`` says otherwise."""
        return Settings.from_env({}, broker=broker, backend=backend or self.url("redis"), **more)

    @contextlib.contextmanager
    def processes(self) -> Iterator[Callable[..., Process]]:
        """``start(*arguments, **environment)``: a process that ends with the block."""
        running: list[Process] = []
        # Modules are compiled once, as those of an installed package are: who compiles them keeps a megabyte and more of it.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

        def start(*arguments: str, **environment: str) -> Process:
            running.append(Process(list(arguments), self.path("process.log"), {**inherited, **environment}))
            return running[-1]

        try:
            yield start
        finally:
            for process in running:
                process.popen.terminate() if process.popen.poll() is None else None
            for process in running:
                process.end()


@dataclass(frozen=True)
class Usage:
    """What a process and all that it started have used so far: seconds of CPU, and MB of memory, each page counted once."""

    cpu: float
    pss_mb: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        cpu, memory = 0.0, 0
        for one in family(pid):
            with contextlib.suppress(OSError):  # it has just ended
                fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
                cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        memory += int(line.split()[1])
        return cls(cpu, memory / 1000)


def family(pid: int) -> list[int]:
    """The process and its descendants (Linux)."""
    found = [pid]
    for parent in found:
        for thread in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, thread.read_text().split())
    return found


def stem_worker(start: Callable[..., Process], settings: Settings, name: str, *options: str) -> Process:
    """Begin a Stem worker of ``benchmarks.tasks``; it says ``ready:`` once it consumes."""
    return start(
        sys.executable, "-m", "stem_kombu_cli", "worker", "start", "-A", "benchmarks.tasks:app", "--name", name,
        "-l", "warning", *options,
        STEM_BROKER_URL=settings.broker.value, STEM_RESULT_BACKEND_URL=str(settings.backend.value),
    )  # fmt: skip


def celery_worker(
    start: Callable[..., Process], broker: str, backend: str, name: str, *options: str, **environment: str
) -> Process:
    """Begin a Celery worker of ``benchmarks.celery_tasks``; it says ``ready.`` once it consumes."""
    return start(
        sys.executable, "-m", "celery", "-A", "benchmarks.celery_tasks:app", "worker", "-n", f"{name}@bench",
        "-l", "info", *options,
        BENCH_CELERY_BROKER=broker, BENCH_CELERY_BACKEND=backend, C_FORCE_ROOT="1", **environment,
    )  # fmt: skip
