"""A fleet to be tormented: two workers and a client, each with links of its own to broker and store, and what is seen of
them from outside."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from stem_kombu.app import Stem
from stem_kombu.backends.registry import open_backend
from stem_kombu.control.client.client import ControlClient
from stem_kombu.errors import StemError
from stem_kombu.settings import Settings
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.transports.sqlite import registration as embedded
from tests.faults import notes
from tests.faults.command import HALT
from tests.faults.history import Bounds, Event, History
from tests.faults.notes import now
from tests.faults.story import MACHINE
from tests.servers.postgres import PostgresServer
from tests.servers.process import Reaper, ServerProcess, _descendants
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
SYNC = 1.0
#: How exactly a loaded machine of two cores can be watched from outside.
BOUNDS = Bounds(
    sync_interval=SYNC, start_slack=1.5, stop_slack=4.0, answer_slack=3.0, recovery=15.0, child_loss=None, litter=None
)
#: What a worker is made of: broker, result backend, revoke store.
STACKS = {
    "redis": ("redis", "redis", "redis"),
    "redis, postgres": ("redis", "postgres", "postgres"),
    "rabbitmq, postgres": ("rabbitmq", "postgres", "postgres"),
    "rabbitmq, redis": ("rabbitmq", "redis", "redis"),
    "embedded, file": ("embedded", "sqlite", "file"),
    "embedded": ("embedded", "sqlite", "sqlite"),
    "redis without persistence, postgres": ("volatile", "postgres", "postgres"),
}
NAMES = ("alpha", "bravo")
#: Seconds that a thread which sleeps for 20 ms may stay away before the machine itself counts as disturbed.
STARVED = 0.5


class Servers:
    """The servers of a session, started when they are first needed. Those that are ``given`` belong to somebody else."""

    def __init__(self, given: Mapping[str, ServerProcess] | None = None) -> None:
        self._reaper = Reaper()
        self._given = dict(given or {})
        self._made: dict[str, ServerProcess] = {}

    def get(self, kind: str) -> Any:
        if kind in self._given:
            self._given[kind].start()
            return self._given[kind]
        if kind not in self._made:
            makers: dict[str, Callable[[], ServerProcess]] = {
                "redis": lambda: RedisServer(self._reaper),
                "volatile": lambda: RedisServer(self._reaper, options=["--appendonly", "no"]),
                "rabbitmq": lambda: RabbitServer(self._reaper),
                "postgres": lambda: PostgresServer(self._reaper),
            }
            self._made[kind] = makers[kind]()
        self._made[kind].start()
        return self._made[kind]

    def new_url(self, kind: str, folder: Path) -> str:
        """An empty place of that kind."""
        if kind == "rabbitmq":
            return str(self.get(kind).new_vhost())
        if kind in ("redis", "volatile", "postgres"):
            return str(self.get(kind).new_database())
        if kind == "embedded":
            return f"sqlite://{folder / 'broker.db'}"
        if kind == "sqla_sqlite":
            return f"sqla+sqlite:///{folder / 'kombu.db'}"
        if kind == "sqla_postgres":
            return f"sqla+{self.new_url('postgres', folder).replace('postgresql', 'postgresql+psycopg2')}"
        if kind == "filesystem":
            for name in ("messages", "control"):
                (folder / name).mkdir()
            messages = folder / "messages"
            return f"filesystem://?data_folder_in={messages}&data_folder_out={messages}&control_folder={folder / 'control'}"
        return f"sqlite://{folder / 'state.db'}" if kind == "sqlite" else f"file://{folder / 'revokes.jsonl'}"

    def close(self) -> None:
        for server in self._made.values():
            server.close()
        self._reaper.close()


@dataclass
class WorkerProcess:
    """One incarnation of a worker."""

    incarnation: str
    process: subprocess.Popen[bytes]
    log: Path
    ready: bool = False
    ended: bool = False
    #: Somebody has killed or stopped it on purpose.
    expected_end: bool = False

    @property
    def name(self) -> str:
        return self.incarnation.partition("#")[0]

    @property
    def running(self) -> bool:
        return not self.ended and self.process.poll() is None

    def children(self) -> list[int]:
        """The pids of its isolates: grandchildren, by way of the forkserver."""
        direct = set(_children(self.process.pid))
        return [pid for server in direct for pid in _children(server)]

    def forkserver(self) -> int | None:
        return next((pid for pid in _children(self.process.pid) if _children(pid)), None)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [
            int(word)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for word in (task / "children").read_text().split()
        ]
    return []


@dataclass
class Command:
    """A ``stem …`` under way. One that halts is continued at ``continue_at`` or later."""

    process: subprocess.Popen[str]
    continue_at: float | None
    disk_full: bool


@dataclass
class Counts:
    """What a schedule did."""

    operations: int = 0
    tasks_sent: int = 0
    revokes_acknowledged: int = 0
    commands: int = 0
    faults: dict[str, int] = field(default_factory=dict)


class Fleet:
    """Everything of one schedule. Use as a context manager."""

    def __init__(
        self,
        servers: Servers,
        stack: str,
        folder: Path,
        rng: random.Random,
        *,
        skews: dict[str, float] | None = None,
        prefetch: int = 1,
    ) -> None:
        embedded.register()
        self.servers, self.stack, self.folder, self.rng = servers, stack, folder, rng
        self.skews = skews or {}
        self.prefetch = prefetch
        self.counts = Counts()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.notes = folder / "history"
        self.notes.mkdir()
        self._log: list[Event] = []
        self._lock = threading.Lock()
        self.kinds = dict(zip(("broker", "backend", "store"), STACKS[stack], strict=True))
        places: dict[str, str] = {}
        for kind in self.kinds.values():
            if kind not in places:
                places[kind] = servers.new_url(kind, folder)
        self.urls = {role: places[kind] for role, kind in self.kinds.items()}
        #: (party, role) -> the proxy on its way; role is broker or store (the backend is where the store is).
        self.links: dict[tuple[str, str], TcpProxy] = {}
        for party in (*NAMES, "client"):
            for role in ("broker", "store"):
                if self.kinds[role] in ("redis", "volatile", "rabbitmq", "postgres"):
                    parts = urlsplit(self.urls[role])
                    proxy = TcpProxy(parts.hostname or "", parts.port or 0)
                    proxy.start()
                    self.links[party, role] = proxy
        self.workers: dict[str, WorkerProcess] = {}
        self._incarnations = dict.fromkeys(NAMES, 0)
        self._commands: list[Command] = []
        self.app = Stem("client")
        self.app.configure(
            Settings.from_env({"STEM_CELERY_EVENTS": "off"}, **self.urls_of("client"), sync_interval=SYNC)
        )
        self.control = ControlClient(self.app)
        self.tasks: list[str] = []
        self.states: dict[str, tuple[str, int]] = {}
        self.troubles: list[str] = []
        self._stopped = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="sampler", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._sampler.start()
        self._watcher.start()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for worker in self.workers.values():
            if worker.process.poll() is None:
                worker.expected_end = True
                below = _descendants(worker.process.pid)
                for pid in (worker.process.pid, *below):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                worker.process.wait()
        for command in self._commands:
            command.process.kill()
            command.process.communicate()
        with contextlib.suppress(StemError):
            self.control.close()
        with contextlib.suppress(StemError):
            self.app.close()
        self._sampler.join()
        self._watcher.join()
        for proxy in self.links.values():
            proxy.stop()

    # -- what happened ----------------------------------------------------------------------------------------------

    def note(self, kind: str, by: str = "harness", **facts: Any) -> Event:
        event = Event(kind, facts.pop("at", None) or now(), by, **facts)
        with self._lock:
            self._log.append(event)
        return event

    def history(self) -> History:
        with self._lock:
            ours = list(self._log)
        return History.merged([ours, notes.read(self.notes)], BOUNDS)

    # -- places -----------------------------------------------------------------------------------------------------

    def urls_of(self, party: str) -> dict[str, str]:
        """``broker``, ``backend`` and ``revoke_store`` as that party reaches them."""
        found = {}
        for role, url in self.urls.items():
            proxy = self.links.get((party, "broker" if role == "broker" else "store"))
            if proxy is not None:
                parts = urlsplit(url)
                at = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
                url = urlunsplit(parts._replace(netloc=f"{at}{proxy.host}:{proxy.port}"))
            found["revoke_store" if role == "store" else role] = url
        return found

    def environment(self, party: str, by: str) -> dict[str, str]:
        skew = self.skews.get(party, 0.0)
        return {
            **os.environ,
            notes.FOLDER: str(self.notes),
            notes.BY: by,
            "STEM_TEST_SKEW": str(skew),
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(self.folder),
        }

    # -- workers ----------------------------------------------------------------------------------------------------

    def start_worker(self, name: str) -> WorkerProcess:
        """A new incarnation; :meth:`ready` says when it consumes."""
        self._incarnations[name] += 1
        incarnation = f"{name}#{self._incarnations[name]}"
        options = {
            **self.urls_of(name),
            "name": name,
            "concurrency": 2,
            "inline_slots": 4,
            "prefetch_multiplier": self.prefetch,
            "sync_interval": SYNC,
            "heartbeat_interval": 1.0,
        }
        log = self.folder / f"{incarnation}.log"
        self.note("up", incarnation)
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.skew", "tests.faults.process", json.dumps(options)],
                cwd=ROOT,
                env=self.environment(name, incarnation),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        worker = WorkerProcess(incarnation, process, log)
        self.workers[name] = worker
        return worker

    def running(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers.values() if worker.running]

    def kill_worker(self, worker: WorkerProcess, number: int = signal.SIGKILL) -> None:
        """End it by a signal, and note that."""
        worker.expected_end = True
        if number == signal.SIGKILL:
            self.note("fault", target=worker.incarnation, value="SIGKILL")
        else:
            self.note("stopping", worker.incarnation)
        worker.process.send_signal(number)

    def _watch(self) -> None:
        """Notice who is ready, who has ended, and when this machine has no time for anybody."""
        last = now()
        while not self._stopped.wait(0.02):
            before, last = last, now()
            if last - before > STARVED:
                self.note("fault", target=MACHINE, value="starved", at=before)
                self.note("healed", target=MACHINE, value="starved", at=last)
            for worker in list(self.workers.values()):
                if (
                    not worker.ready
                    and worker.process.poll() is None
                    and "ready\n" in worker.log.read_text(errors="replace")
                ):
                    worker.ready = True
                    self.note("ready", worker.incarnation)
                if not worker.ended and worker.process.poll() is not None:
                    worker.ended = True
                    code = worker.process.returncode
                    # Who can't reach its store or broker while it starts says so and ends: that is no crash.
                    crashed = worker.ready and not worker.expected_end
                    self.note("down", worker.incarnation, value="crashed" if crashed else None)
                    if crashed:
                        tail = "\n".join(worker.log.read_text(errors="replace").splitlines()[-12:])
                        self.troubles.append(f"{worker.incarnation} ended by itself with {code}:\n{tail}")

    # -- states -----------------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        """Note each change of a recorded state, as the backend itself shows it."""
        backend: Any = None
        while not self._stopped.wait(0.15):
            for task in list(self.tasks):
                if self._stopped.is_set():
                    break
                try:
                    backend = backend or open_backend(self.urls["backend"])
                    record = backend.get(task)
                except StemError:
                    break
                if record is None:
                    continue
                state = (record.state.value, record.attempt)
                if self.states.get(task) != state:
                    self.states[task] = state
                    self.note(
                        "recorded",
                        record.worker or "",
                        task=task,
                        attempt=record.attempt,
                        state=record.state.value,
                        version=None if record.revocation is None else record.revocation.version,
                    )
        if backend is not None:
            backend.close()

    def unfinished(self) -> list[str]:
        ended = ("succeeded", "failed", "cancelled")
        return [task for task in self.tasks if self.states.get(task, ("", 0))[0] not in ended]

    # -- commands in processes of their own ---------------------------------------------------------------------------

    def begin_command(self, step: str, *arguments: str, disk_full: bool = False) -> None:
        """Start ``stem …`` that dies or halts at ``step``; :meth:`collect_commands` looks at what became of it.

        ``disk_full``: it can't add one byte to any file.
        """
        urls = self.urls_of("client")
        variables = {
            "STEM_BROKER_URL": urls["broker"],
            "STEM_RESULT_BACKEND_URL": urls["backend"],
            "STEM_REVOKE_STORE_URL": urls["revoke_store"],
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.skew", "tests.faults.command", step, *arguments],
            cwd=ROOT,
            env={**self.environment("client", "command"), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))) if disk_full else None,
        )
        self.counts.commands += 1
        halted = step.startswith(HALT)
        self._commands.append(Command(process, now() + self.rng.choice((1.0, 6.0)) if halted else None, disk_full))

    def collect_commands(self, *, wait: bool = False) -> None:
        left = []
        for command in self._commands:
            process = command.process
            if command.continue_at is not None and (wait or now() >= command.continue_at):
                process.send_signal(signal.SIGCONT)
            if process.poll() is None and not wait:
                left.append(command)
                continue
            try:
                out, err = self._end_of(process)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                self.troubles.append(f"a command did not end: {process.args}\n{err}")
            if "Traceback" in err or "report what it prints" in err:
                self.troubles.append(f"a command failed in an unexpected way ({process.returncode}):\n{err}")
            elif command.disk_full and process.returncode in (0, 3):
                self.troubles.append(f"a command claims to have stored on a full disk:\n{out}{err}")
            elif process.returncode in (0, 3) and out:
                self.counts.revokes_acknowledged += 1
        self._commands = left

    @staticmethod
    def _end_of(process: subprocess.Popen[str]) -> tuple[str, str]:
        """What it wrote; it may reach the step at which it halts only now."""
        for _ in range(60):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.communicate(timeout=1)
            process.send_signal(signal.SIGCONT)
        return process.communicate(timeout=1)

    # -- the end ----------------------------------------------------------------------------------------------------

    def read_store(self) -> None:
        """Note all that the store holds."""
        store = open_revoke_store(self.urls["store"])
        try:
            began = now()
            held = {r.task_id: (r.version, r.terminate) for r in store.load("stem")}
            self.note("read", "store", value=held, began=began, at=began)
        except StemError as error:
            self.note("read", "store", state="corrupt", value=str(error))
        finally:
            store.close()

    def log_troubles(self) -> Iterator[str]:
        """Tracebacks in the workers' logs: somebody was surprised."""
        for path in sorted(self.folder.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            for number, line in enumerate(lines):
                if line.startswith("Traceback"):
                    end = next(
                        (i for i in range(number + 1, len(lines)) if not lines[i].startswith((" ", "\t"))), number
                    )
                    yield f"{path.stem}: {lines[number - 1][24:200]} … {lines[min(end, len(lines) - 1)][:300]}"


def be_quiet() -> None:
    """The client's warnings tell of faults that were meant."""
    logging.getLogger("stem_kombu").addHandler(logging.NullHandler())
    logging.getLogger("stem_kombu").propagate = False


def wait_ready(worker: WorkerProcess, timeout: float = 240.0) -> None:
    eventually(
        lambda: worker.ready or worker.process.poll() is not None,
        timeout,
        lambda: f"{worker.incarnation} is not ready\n{worker.log.read_text(errors='replace')[-3000:]}",
    )
