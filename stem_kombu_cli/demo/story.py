"""The story: two workers, real work, and an operator who stops some of it. Each step is the real program in a process of
its own, and each claim is looked up before it is made."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from stem_kombu import timeouts
from stem_kombu.backends.registry import open_backend
from stem_kombu.clock import SYSTEM
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu_cli.demo.app import DEPTH, HEIGHT, WIDTH
from stem_kombu_cli.demo.interruption import Interruption
from stem_kombu_cli.demo.picture import write_png

BANDS = 4
APP = "stem_kombu_cli.demo.app:app"
LATE = "render-of-last-week"


def _is_running(record: TaskRecord) -> bool:
    return record.state is TaskState.RUNNING


class StoryBroken(Exception):
    """A claim of the story does not hold on this machine."""


class Story:
    """Tells itself through ``say``; ``environment`` is that of every process it starts. :meth:`close` ends them.

    Without a ``picture`` that goes into a new temporary folder, once it is drawn.
    """

    def __init__(
        self,
        folder: Path,
        picture: Path | None,
        environment: Mapping[str, str],
        say: Callable[[str], None],
        interruption: Interruption,
    ) -> None:
        self._picture = None if picture is None else picture.absolute()
        self._broker = f"sqlite://{folder / 'broker.db'}"
        self._backend_url = f"sqlite://{folder / 'state.db'}"
        self._environment = {
            **environment,
            "STEM_BROKER_URL": self._broker,
            "STEM_RESULT_BACKEND_URL": self._backend_url,
            "STEM_HEARTBEAT_INTERVAL": "1s",
        }
        self._say = say
        self._interruption = interruption
        self._processes: list[subprocess.Popen[str]] = []
        self._workers: dict[str, subprocess.Popen[str]] = {}
        self._backend = open_backend(self._backend_url)

    def close(self) -> None:
        """End what still runs, each in its own way as long as it does not take for ever."""
        deadline, pause = SYSTEM.monotonic() + timeouts.CLI_DEMO_END, 0.0
        while living := [process for process in self._processes if process.poll() is None]:
            if SYSTEM.monotonic() >= deadline:
                for process in living:
                    process.kill()
                    process.wait()
                break
            for process in living:
                process.terminate()  # the second one has a worker give back what runs
            SYSTEM.sleep(pause := min(0.5, pause + 0.1))
        self._backend.close()

    def tell(self) -> None:
        """Everything, in under 40 seconds; raises :class:`StoryBroken` when a claim doesn't hold."""
        began = SYSTEM.monotonic()
        self._chapter("Two workers on the embedded broker, one isolate each")
        for name in ("demo-a", "demo-b"):
            self._start(name)
        self._stem("worker ping")

        self._chapter(f"Real work: two long renders, a picture in {BANDS} bands, an inline and an async task")
        # One on each worker, so that everything after them waits until one is stopped.
        long, other = [self._send("demo.render", first=0, last=HEIGHT, rounds=1000) for _ in range(2)]
        for task in (long, other):
            self._until(task, "start", _is_running)
        step = HEIGHT // BANDS
        bands = [self._send("demo.render", quiet=i > 0, first=i * step, last=(i + 1) * step) for i in range(BANDS)]
        small = [self._send("demo.caption", title="mandelbrot"), self._send("demo.announce", to="everyone")]
        queued = self._send("demo.render", first=0, last=HEIGHT, rounds=1000)

        self._chapter("What runs, and how the fleet stands")
        self._stem("worker inspect")
        self._stem("worker stats --worker demo-a")

        self._chapter("Revoke one render that runs and one that waits")
        self._stem(f"worker revoke --task {long} --task {queued} --terminate --reason 'wrong picture'")
        stopped = self._ended(long)
        self._claim(
            stopped.state is TaskState.CANCELLED and stopped.started_at is not None,
            "the first stopped at its checkpoint",
        )
        self._stem(f"task show {long}")
        never = self._ended(queued)
        self._claim(never.state is TaskState.CANCELLED and never.started_at is None, "the second never started")

        self._stem(f"worker revoke --task {other} --terminate --reason 'and the other one'")

        self._chapter("A revoke outlives a restart: revoked first, sent afterwards, to a worker that is new")
        self._stem(f"worker revoke --task {LATE} --reason 'too old'")
        self._stop("demo-a")
        self._start("demo-a")
        self._send("demo.render", task_id=LATE, first=0, last=HEIGHT)
        late = self._ended(LATE)
        self._claim(late.state is TaskState.CANCELLED and late.started_at is None, "it is still in force")

        self._pause_and_undo()
        self._ladder()

        self._chapter("And the work that was meant to be done is done")
        done = [self._ended(task) for task in (*bands, *small)]
        self._claim(all(r.state is TaskState.SUCCEEDED for r in done), "every other task succeeded")
        self._stem("worker status")
        self._draw([record.result for record in done[:BANDS]], str(done[BANDS].result))
        for name in list(self._workers):
            self._stop(name)
        self._say(f"\ndone in {SYSTEM.monotonic() - began:.1f} s")

    def _pause_and_undo(self) -> None:
        self._chapter("Pause a queue: what runs goes on, nothing else starts there")
        self._stem("queue pause default --for 10m --reason 'the printer is out of paper' --yes")
        waiting = self._send("demo.caption", title="printed later")
        self._stem("directives list")

        self._chapter("Revoke what waits, and take that back")
        self._stem(f"worker revoke --task {waiting} --reason 'a slip of the hand'")
        self._stem(f"revokes undo {waiting} --reason 'it was the wrong one'")
        held = self._backend.get(waiting)
        self._claim(held is None or held.started_at is None, "the task waits, as its queue is paused")
        self._stem("queue resume default --yes")
        printed = self._ended(waiting)
        self._claim(printed.state is TaskState.SUCCEEDED, "the queue goes on, and the task ran: its revoke is undone")

    def _ladder(self) -> None:
        self._chapter("A task without checkpoints: the ladder ends its process, and no other")
        task = self._send("demo.stubborn", seconds=120)
        self._until(task, "start", _is_running)
        why = "--reason 'it does not listen'"
        self._stem(f"worker revoke --task {task} --terminate --term-after 200ms --kill-after 400ms {why} --wait --yes")
        ended = self._ended(task)
        by = None if ended.ended_by is None else ended.ended_by.how.value
        self._claim(ended.state is TaskState.CANCELLED and by == "kill", "SIGTERM, then SIGKILL; recorded as cancelled")

    # -- the real program -----------------------------------------------------------------------------------------------

    def _stem(self, line: str, *, quiet: bool = False) -> str:
        """Run ``stem`` with these arguments, show what it prints, and return its stdout."""
        process = self._begin(line, stderr=subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            raise StoryBroken(f"stem {line} did not end within a minute") from None
        if not quiet:
            self._say(f"\n$ stem {line}")
            self._say("\n".join(text for text in (out.rstrip(), err.rstrip()) if text))
        self._claim(process.returncode == 0, f"stem {line} exits with 0", told=err)
        return out

    def _begin(self, line: str, **options: Any) -> subprocess.Popen[str]:
        """Start ``stem`` with these arguments. Ctrl-C is ours alone: the process has a session of its own."""
        with self._interruption.deferred():
            process = subprocess.Popen(
                [sys.executable, "-m", "stem_kombu_cli", *shlex.split(line)],
                env=self._environment,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                **options,
            )
            self._processes.append(process)
        return process

    def _send(self, name: str, *, quiet: bool = False, task_id: str | None = None, **kwargs: object) -> str:
        chosen = f" --id {task_id}" if task_id else ""
        return self._stem(f"task send {name}{chosen} --kwargs {shlex.quote(json.dumps(kwargs))}", quiet=quiet).strip()

    def _start(self, name: str) -> None:
        line = f"worker start -A {APP} --name {name} --concurrency 1 --log-level warning"
        self._say(f"\n$ stem {line} &")
        process = self._workers[name] = self._begin(line)
        assert process.stdout is not None
        ready = process.stdout.readline().rstrip()
        self._say(ready)
        self._claim(re.match(rf"ready: worker {name} ", ready) is not None, f"{name} is ready")

    def _stop(self, name: str) -> None:
        process = self._workers.pop(name)
        self._say(f"\n$ kill -TERM {process.pid}   # {name}")
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            raise StoryBroken(f"{name} did not stop") from None
        finally:
            if process.stdout is not None:
                process.stdout.close()
        self._claim(code == 0, f"{name} finished what it had and left with 0")

    # -- looking ----------------------------------------------------------------------------------------------------------

    def _ended(self, task_id: str) -> TaskRecord:
        return self._until(task_id, "end", attrgetter("state.is_terminal"))

    def _until(self, task_id: str, what: str, holds: Callable[[TaskRecord], bool]) -> TaskRecord:
        deadline = SYSTEM.monotonic() + 60.0
        while SYSTEM.monotonic() < deadline:
            record = self._backend.get(task_id)
            if record is not None and holds(record):
                return record
            SYSTEM.sleep(0.01)
        raise StoryBroken(f"task {task_id} did not {what} within a minute")

    def _draw(self, bands: list[str], title: str) -> None:
        pixels = b"".join(bytes.fromhex(band) for band in bands)
        rows = [pixels[start : start + WIDTH] for start in range(0, len(pixels), WIDTH)]
        with self._interruption.deferred():
            picture = self._picture or Path(tempfile.mkdtemp(prefix="stem-demo-"), "mandelbrot.png")
            try:
                size = write_png(picture, rows, DEPTH)
            except OSError as error:
                raise StoryBroken(f"the picture can't be written to {picture}: {error.strerror or error}") from None
        self._say(f"\n{title}: {WIDTH} x {len(rows)} pixels, {size} bytes, in {picture}")

    def _claim(self, holds: bool, what: str, told: str = "") -> None:
        if not holds:
            raise StoryBroken(f"not so: {what}" + (f"\n{told}" if told else ""))
        if not what.startswith("stem "):
            self._say(f"  ✓ {what}")

    def _chapter(self, title: str) -> None:
        self._say(f"\n── {title}")
