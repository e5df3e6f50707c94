"""What an operator does with a fleet, on one broker, by the installed ``stem``: each cell of a column, measured.

A cell is a text. One that begins with ``no`` says what was not reached; a test counts those (``tests/matrix/test_matrix.py``).
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stem_kombu.clock import SYSTEM
from stem_kombu.testing.gates import Gate
from tests.cli.program import Program, WorkerProcess
from tests.matrix.place import Place

#: Seconds to wait for what must come about, on a machine that is busy with other things.
PATIENCE = 120.0
#: A killed worker's task that has not run elsewhere by then is lost.
LOST_AFTER = 20.0
#: Seconds after which what dead workers left must be gone while another one lives: the roster shows a dead worker for a minute,
#: and is pruned about as often.
SWEPT_AFTER = 200.0
#: Seconds over which an idle worker is watched.
IDLE = 5.0


class Scenario:
    """One column. ``commands``, ``stops`` and ``kills`` are how many of each are made before what is left is
    counted; ``only``: what the names of the cells that are wanted have in them."""

    def __init__(
        self,
        place: Place,
        folder: Path,
        *,
        commands: int = 100,
        stops: int = 20,
        kills: int = 20,
        say: Callable[[str], object] = lambda line: None,
        only: Sequence[str] = ("",),
    ) -> None:
        self._place, self._folder, self._say, self._only = place, folder, say, only
        self._commands, self._stops, self._kills = commands, stops, kills
        loss = {"STEM_ACCEPT_LOSS": "true"} if place.loses else {}
        self._stem = Program(folder, {**place.variables, **loss})
        self._gates = 0
        self.cells: dict[str, str] = {}

    def run(self) -> dict[str, str]:
        """The cells in their order. What a cell could not do stands in it; the others go on."""
        try:
            self._cell("start without accepting a loss", self._start_strictly)
            self._cell("start, ready", self._start)
            self._cell("send and run", self._send_and_run)
            self._cell("`ping`", lambda: self._asked("worker", "ping"))
            self._cell("`ping --worker`", lambda: self._asked("worker", "ping", "--worker", "alpha"))
            self._cell("`inspect`", lambda: self._asked("worker", "inspect"))
            self._cell("`stats` with depth", self._stats)
            self._cell("`status`", lambda: self._asked("worker", "status"))
            self._cell("revoke what waits", self._revoke_waiting)
            self._cell("revoke what runs", self._revoke_running)
            self._cell("idle worker", self._idle)
            self._cell(f"left by {self._commands} commands and {self._stops} clean stops", self._left_by_commands)
            self._cell("SIGKILL of the worker that runs a task", self._kill)
            self._cell(f"left by {self._kills} SIGKILLs", self._left_by_kills)
            if self._place.fail_over is not None:
                self._cell("the server in use is killed", self._fail_over)
        finally:
            self._stem.close()
        return self.cells

    def _cell(self, name: str, measure: Callable[[], str]) -> None:
        if name != "start, ready" and not any(one in name for one in self._only):
            return
        began = SYSTEM.monotonic()
        try:
            self.cells[name] = measure()
        except Exception as error:  # noqa: BLE001 - what failed is what this cell says
            self.cells[name] = f"no: {type(error).__name__}: {' '.join(str(error).split())[-300:]}"
        self._say(f"  {name}: {self.cells[name]}  ({SYSTEM.monotonic() - began:.1f} s)")

    def _start_strictly(self) -> str:
        if not self._place.loses:
            return "yes"
        worker = self._stem.begin_worker("--name", "strict", "-c", "1", env={"STEM_ACCEPT_LOSS": "false"})
        return f"refused ({worker.wait_code()})"

    def _start(self) -> str:
        began = SYSTEM.monotonic()
        worker = self._stem.start_worker("--name", "alpha", "-c", "1")
        (link,) = {word for word in ("control store", "control broker") if f"  {word}  " in worker.out} or {"?"}
        return f"{SYSTEM.monotonic() - began:.1f} s, {link}"

    def _send_and_run(self) -> str:
        began = SYSTEM.monotonic()
        task = self._stem.send("shop.add", a=1, b=2)
        record = self._stem.ended(task)
        assert (record["state"], record["result"]) == ("succeeded", 3), record
        return f"{SYSTEM.monotonic() - began:.1f} s"

    def _asked(self, *arguments: str) -> str:
        """The shorter of two times of the whole command, with default settings."""
        found = min(self._timed(*arguments) for _ in range(2))
        return f"{found:.2f} s"

    def _timed(self, *arguments: str) -> float:
        began = SYSTEM.monotonic()
        done = self._stem.ok(*arguments, "--json")
        took = SYSTEM.monotonic() - began
        document = done.json
        assert document.get("complete", True) is True, document
        return took

    def _stats(self) -> str:
        (reply,) = self._stem.ok("worker", "stats", "--json").json["replies"]
        depths = reply["payload"]["queues"]
        known = depths.get("default") if isinstance(depths, dict) else depths
        return f"{self._asked('worker', 'stats')}, depth {'unknown' if known is None else 'known'}"

    def _revoke_waiting(self) -> str:
        gate = self._gate()
        running = self._stem.send("shop.render", gate=gate.path)
        gate.wait_reached(timeout=PATIENCE)
        waiting = self._stem.send("shop.add", a=1)
        self._stem.run("worker", "revoke", "--task", waiting)
        gate.open()
        assert self._stem.ended(running)["state"] == "succeeded"
        return str(self._stem.ended(waiting)["state"])

    def _revoke_running(self) -> str:
        gate = self._gate()
        running = self._stem.send("shop.render", gate=gate.path)
        gate.wait_reached(timeout=PATIENCE)
        took = self._timed("worker", "revoke", "--task", running, "--terminate")
        state = self._stem.ended(running)["state"]
        return f"{state}, {took:.2f} s"

    def _idle(self) -> str:
        pid = self._stem.workers[-1].process.pid
        before, began = _cpu_seconds(pid), SYSTEM.monotonic()
        SYSTEM.sleep(IDLE)
        used = (_cpu_seconds(pid) - before) / (SYSTEM.monotonic() - began)
        return f"{used * 100:.1f} % of a processor"

    def _left_by_commands(self) -> str:
        # The first worker of a place makes what is there for all: tables, the queue of the tasks.
        before = self._place.left()
        for number in range(self._commands):
            self._stem.ok("worker", ("ping", "inspect", "stats")[number % 3])
        assert self._stem.workers[-1].terminate() == 0
        for worker in self._in_turn("stopped", self._stops - 1):
            assert worker.terminate() == 0
        return self._left(before)

    def _in_turn(self, name: str, count: int) -> Iterator[WorkerProcess]:
        """So many workers, each when it is ready; four start at a time."""
        for begun in range(0, count, 4):
            names = [f"{name}-{number}" for number in range(begun, min(begun + 4, count))]
            for worker in [self._stem.begin_worker("--name", one, "-c", "1") for one in names]:
                yield worker.wait_ready()

    def _kill(self) -> str:
        doomed, gate = self._stem.start_worker("--name", "doomed", "-c", "1"), self._gate()
        task = self._stem.send("shop.render", gate=gate.path)
        gate.wait_reached(timeout=PATIENCE)
        doomed.signal(signal.SIGKILL)
        doomed.wait_code()
        gate.open()
        survivor = self._stem.start_worker("--name", "survivor", "-c", "1")
        began = SYSTEM.monotonic()
        limit = LOST_AFTER if self._place.loses else PATIENCE
        while (record := self._stem.record(task))["state"] != "succeeded":
            if SYSTEM.monotonic() - began > limit:
                survivor.terminate()
                return "the task is lost" if self._place.loses else f"no: {record['state']}"
        took = SYSTEM.monotonic() - began
        assert (record["worker"], record["attempt"]) == ("survivor", 1), record
        survivor.terminate()
        return f"runs again, {took:.1f} s after the next worker was ready"

    def _left_by_kills(self) -> str:
        if (last := self._stem.workers[-1]).process.poll() is None:
            last.terminate()
        before = self._place.left()
        for worker in self._in_turn("killed", self._kills):
            worker.signal(signal.SIGKILL)
            worker.wait_code()
        last = self._stem.start_worker("--name", "alpha", "-c", "1")
        # It removes what the dead have left, and what expires does. The roster shows a dead worker for a minute.
        alive = SYSTEM.monotonic() + SWEPT_AFTER
        while SYSTEM.monotonic() < alive and self._more(before, {"alpha"}):
            SYSTEM.sleep(1.0)
        last.terminate()
        return self._left(before)

    def _fail_over(self) -> str:
        self._stem.start_worker("--name", "bravo", "-c", "1")
        self._send_and_run()
        assert self._place.fail_over is not None
        self._place.fail_over()
        began = SYSTEM.monotonic()
        found = f"next task: {self._again(self._send_and_run, began)} after it"
        if self._place.bring_back is None:
            return f"{found}, `ping`: {self._again(self._pinged, began)} after it"
        self._place.bring_back()
        return f"{found}, `ping`: {self._again(self._pinged, SYSTEM.monotonic())} after it is back"

    def _again(self, once: Callable[[], object], began: float) -> str:
        """How long after ``began`` that first succeeded."""
        while True:
            try:
                once()
            except AssertionError:
                if SYSTEM.monotonic() > began + PATIENCE:
                    raise
            else:
                return f"{SYSTEM.monotonic() - began:.1f} s"

    def _pinged(self) -> None:
        self._timed("worker", "ping")

    def _left(self, before: Counter[str]) -> str:
        deadline = SYSTEM.monotonic() + PATIENCE
        while (more := self._more(before)) and SYSTEM.monotonic() < deadline:
            SYSTEM.sleep(1.0)
        return "nothing" if not more else f"no: {more.total()} ({', '.join(sorted(more)[:4])})"

    def _more(self, before: Counter[str], but_of: set[str] | None = None) -> Counter[str]:
        found = self._place.left() - before
        return Counter({name: count for name, count in found.items() if not any(one in name for one in but_of or ())})

    def _gate(self) -> Gate:
        self._gates += 1
        return Gate(self._folder / f"gate-{self._gates}")


def _cpu_seconds(pid: int) -> float:
    """Of that process and of its children."""
    total, ahead = 0.0, [pid]
    ticks = os.sysconf("SC_CLK_TCK")
    while ahead:
        one = ahead.pop()
        fields: list[Any] = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / ticks
        for task in Path(f"/proc/{one}/task").iterdir():
            ahead += [int(child) for child in (task / "children").read_text().split()]
    return total
