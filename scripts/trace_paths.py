"""Figures about the code: what a revoke and a task run through, and how much product code there is.

Run ``python scripts/trace_paths.py``. It starts a private server, a worker with one child and a client in one process, and
follows two paths on each broker:

- ``revoke``: one ``revoke --terminate`` of a running isolate, until the task's end is recorded and acknowledged;
- ``task``: one isolate's task that returns at once, from sending it until it is recorded and acknowledged.

Printed for each: files, functions and calls of product code (``stem_kombu``, the child included). Comprehensions are not
counted, as some interpreters inline them. The round with the fewest calls of ``--rounds`` counts: what else happened in a
round was a timer's work. ``--calls`` lists each function with its number of calls, in the order of the first call.

Below stand counts of the code itself; ``--json`` prints everything as one object. Linux only.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import CodeType, FrameType

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from stem_kombu.app import Stem  # noqa: E402 - the tree that this script lies in, not one that is installed
from stem_kombu.context import TaskContext  # noqa: E402
from stem_kombu.control.client.client import ControlClient  # noqa: E402
from stem_kombu.settings import Settings  # noqa: E402
from stem_kombu.worker.worker import Worker  # noqa: E402

PRODUCT = f"{ROOT / 'stem_kombu'}{os.sep}"
BROKERS = ("redis", "embedded")
#: Seconds after a recorded end, within which the worker acknowledges the message, and for anything to happen at all.
SETTLED, LONGEST = 0.3, 60.0
#: Seconds between two checkpoints of the task that is revoked.
CHECKPOINTS = 0.02

#: The variable that tells children where to write down their calls.
LOG = "TRACE_LOG"

app = Stem("traced")


# -- recording --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call: when (monotonic, one clock for all processes), in which thread, of which function."""

    at: float
    thread: str
    file: str
    line: int
    name: str


class Recorder:
    """Notes calls of product code in the threads that it is installed in. ``sink`` gets each of them."""

    def __init__(self, sink: Callable[[Call], None], process: str = "") -> None:
        self._sink, self._process = sink, process
        self._known: dict[CodeType, tuple[str, int, str] | None] = {}

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code not in self._known:
            self._known[code] = _place(code)
        if (place := self._known[code]) is not None:
            self._sink(Call(time.monotonic(), self._process or threading.current_thread().name, *place))


def _place(code: CodeType) -> tuple[str, int, str] | None:
    if not code.co_filename.startswith(PRODUCT) or code.co_name in ("<listcomp>", "<setcomp>", "<dictcomp>"):
        return None
    name: str = getattr(code, "co_qualname", code.co_name)  # since Python 3.11
    return code.co_filename[len(PRODUCT) :], code.co_firstlineno, name


def _write(log: int, call: Call) -> None:
    os.write(log, f"{json.dumps(asdict(call))}\n".encode())


if __name__ != "__main__" and LOG in os.environ:
    # A child, or the process that forks it, imports this: it writes down its calls at once, as it may be killed.
    _log = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    sys.setprofile(Recorder(partial(_write, _log), "child"))


@app.task("traced.no_op", isolate=True)
def no_op(_ctx: TaskContext) -> None:
    """Nothing."""


@app.task("traced.busy", isolate=True, max_retries=0)
def busy(ctx: TaskContext, begun: str) -> None:
    """Checkpoints until it is stopped."""
    Path(begun).touch()
    while True:
        time.sleep(CHECKPOINTS)
        ctx.check()


# -- paths ------------------------------------------------------------------------------------------------------------


@dataclass
class Traced:
    """What one path runs through. ``functions`` are lines of ``calls thread file:line name``."""

    files: int
    functions: int
    calls: int
    listing: list[str] = field(repr=False)

    @classmethod
    def of(cls, calls: list[Call]) -> Traced:
        calls = sorted(calls, key=lambda call: call.at)
        counts = Counter((call.thread, call.file, call.line, call.name) for call in calls)
        functions = {(call.file, call.line, call.name) for call in calls}
        listing = [f"{n:5} {thread:24} {file}:{line} {name}" for (thread, file, line, name), n in counts.items()]
        return cls(len({call.file for call in calls}), len(functions), len(calls), listing)


@dataclass
class Figures:
    """Both paths on one broker, and the names of the threads that an idle worker has there."""

    revoke: Traced
    task: Traced
    idle_threads: list[str]


class Fleet:
    """A worker and a client on one broker, and what they called."""

    def __init__(self, broker: str, folder: Path) -> None:
        self._folder = folder
        self._calls: list[Call] = []
        # Timers are out of the way: what they do is on no path.
        settings = Settings.from_env(
            {}, broker=broker, backend=f"sqlite:///{folder / 'state.db'}" if broker.startswith("sqlite") else broker,
            sync_interval=60.0, heartbeat_interval=30.0,
        )  # fmt: skip
        app.configure(settings)
        self._recorder = Recorder(self._calls.append)
        before = set(threading.enumerate())
        threading.setprofile(self._recorder)  # for each thread that starts from here on
        try:
            self.worker = Worker(app, name="traced", concurrency=1)
            self.worker.start()
        finally:
            threading.setprofile(None)
        self._numbers = iter(range(1_000_000))
        self._until_recorded(app.send_task("traced.no_op").id)
        time.sleep(1.0)
        self.threads = sorted(thread.name for thread in set(threading.enumerate()) - before)
        threading.setprofile(self._recorder)  # the client's threads as well
        self.client = ControlClient(app)
        self.client.ping()

    def close(self) -> None:
        threading.setprofile(None)
        self.client.close()
        self.worker.stop(0.0)
        app.close()

    def task(self) -> Traced:
        """One task that returns at once."""
        return self._followed(lambda: app.send_task("traced.no_op").id)

    def revoke(self) -> Traced:
        """One revoke of a task that runs."""
        begun = self._folder / f"begun-{next(self._numbers)}"
        task_id = app.send_task("traced.busy", [str(begun)]).id
        wait_for(begun.exists, "the task to begin")
        time.sleep(SETTLED)

        def revoke() -> str:
            report = self.client.revoke([task_id], terminate=True)
            assert report.complete, report
            return task_id

        return self._followed(revoke)

    def _followed(self, act: Callable[[], str]) -> Traced:
        began = time.monotonic()
        sys.setprofile(self._recorder)
        try:
            task_id = act()
        finally:
            sys.setprofile(None)
        self._until_recorded(task_id)
        ended = time.monotonic()
        calls = [*self._calls, *self._calls_of_child()]
        return Traced.of([call for call in calls if began <= call.at <= ended])

    def _until_recorded(self, task_id: str) -> None:
        """Waits by a thread that is not followed."""
        wait_for(lambda: is_recorded(task_id), f"the end of task {task_id}")
        time.sleep(SETTLED)

    def _calls_of_child(self) -> Iterator[Call]:
        for line in Path(os.environ[LOG]).read_text().splitlines():
            yield Call(**json.loads(line))


def is_recorded(task_id: str) -> bool:
    """Whether the task's end is in the result backend."""
    record = app.result(task_id).record
    return record is not None and record.state.is_terminal


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Return once it is true; raises ``TimeoutError`` where it never is."""
    deadline = time.monotonic() + LONGEST
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {LONGEST:g} s for {what}")
        time.sleep(0.02)


def paths(broker: str, rounds: int) -> Figures:
    """Both paths on a broker, and the threads of an idle worker there."""
    with ExitStack() as ends:
        folder = Path(tempfile.mkdtemp(prefix="stem-traced-"))
        ends.callback(shutil.rmtree, folder, ignore_errors=True)
        url = f"sqlite://{folder / 'broker.db'}"
        if broker == "redis":
            from tests.servers.process import Reaper
            from tests.servers.redis import RedisServer

            reaper = Reaper()
            ends.callback(reaper.close)
            server = RedisServer(reaper)
            ends.callback(server.close)
            server.start()
            url = server.new_database()
        fleet = Fleet(url, folder)
        ends.callback(fleet.close)

        def fewest(act: Callable[[], Traced]) -> Traced:
            return min((act() for _ in range(rounds)), key=lambda path: (path.calls, path.functions))

        return Figures(fewest(fleet.revoke), fewest(fleet.task), fleet.threads)


# -- the code itself --------------------------------------------------------------------------------------------------

#: What brokers and their drivers are called.
DRIVERS = {
    "redis",
    "rediss",
    "sentinel",
    "amqp",
    "amqps",
    "pyamqp",
    "py-amqp",
    "sqlite",
    "memory",
    "qpid",
    "sqs",
    "kafka",
}
#: The rooms that may ask for one: transports, stores and backends are chosen by their schemes.
MAY_ASK = ("transports", "broker", "drivers", "stores", "backends")

#: What the simulation puts in the place of names of product code, and how many modules it has in the place of whole ones.
PATCHED = """
import sys
from tests.simulation import ports
ports.install()
from tests.simulation import fleet
def names():
    return {(m, n): v for m, module in sys.modules.items() if m.startswith("stem_kombu") for n, v in vars(module).items()}
before = names()
fleet.wire()
print(sum(before.get(key) is not value for key, value in names().items()), len(ports.PORTS))
"""


def code() -> dict[str, int]:
    """Counts of product code, ``stem_kombu.testing`` aside."""
    sources = {
        path: path.read_text()
        for package in ("stem_kombu", "stem_kombu_cli")
        for path in sorted((ROOT / package).rglob("*.py"))
        if "testing" not in path.relative_to(ROOT).parts
    }
    nodes = [(path, node) for path, text in sources.items() for node in ast.walk(ast.parse(text))]
    patched = subprocess.run([sys.executable, "-c", PATCHED], cwd=ROOT, capture_output=True, text=True, check=True)
    names_patched, modules_replaced = map(int, patched.stdout.split())
    return {
        "product lines": sum(len(text.splitlines()) for text in sources.values()),
        "lambdas": sum(isinstance(node, ast.Lambda) for _, node in nodes),
        "Any": sum(len(re.findall(r"\bAny\b", text)) for text in sources.values()),
        "parameters of the longest constructor": max(
            _parameters(node)
            for _, node in nodes
            if isinstance(node, ast.FunctionDef) and node.name in ("__init__", "build")
        ),
        "comparisons with a driver's name outside transports": sum(
            isinstance(node, ast.Compare) and _names_driver(node)
            for path, node in nodes
            if path.relative_to(ROOT).parts[1] not in MAY_ASK
        ),
        "names patched by the simulation": names_patched,
        "modules that the simulation replaces": modules_replaced,
    }


def _parameters(function: ast.FunctionDef) -> int:
    given = function.args
    return len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1  # self or cls


def _names_driver(comparison: ast.Compare) -> bool:
    return any(
        isinstance(node, ast.Constant) and node.value in DRIVERS
        for side in (comparison.left, *comparison.comparators)
        for node in ast.walk(side)
    )


# -- output -----------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="python scripts/trace_paths.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--broker", choices=BROKERS, action="append", help="default both; may be repeated")
    parser.add_argument("--rounds", type=int, default=5, help="how often each path is followed (default 5)")
    parser.add_argument("--calls", action="store_true", help="list each function of each path with its calls")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stem-traced-") as folder:
        os.environ[LOG] = f"{folder}/child.calls"
        found = {broker: paths(broker, given.rounds) for broker in given.broker or BROKERS}
    counts = code()
    if given.json:
        print(json.dumps({"paths": {broker: asdict(one) for broker, one in found.items()}, "code": counts}, indent=1))
        return
    for broker, figures in found.items():
        for name, path in (("revoke", figures.revoke), ("task", figures.task)):
            print(f"{broker:9} {name:7} {path.files:4} files {path.functions:5} functions {path.calls:6} calls")
            if given.calls:
                print("\n".join(path.listing))
        print(f"{broker:9} idle worker: {len(figures.idle_threads)} threads ({', '.join(figures.idle_threads)})")
    for name, count in counts.items():
        print(f"{count:7} {name}")


if __name__ == "__main__":
    main()
