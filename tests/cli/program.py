"""The installed ``stem``, run as a user runs it: a process, its arguments, two streams and an exit code."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stem_kombu.stores.registry import open_revoke_store
from tests.cli import preloaded
from tests.cli.preloaded import STEM
from tests.suspension import suspend
from tests.waiting import eventually

PROJECT = Path(__file__).parent / "project"
#: Seconds.
_PATIENCE = 90
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Done:
    """What a run left: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout, which must be one document in one line."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    def __str__(self) -> str:
        return f"exit code {self.code}\n-- stdout\n{self.out}\n-- stderr\n{self.err}"


class WorkerProcess:
    """A ``stem worker start`` that is ready, or has ended."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, number: int) -> None:
        self.process = process
        self._out, self._err = folder / f"worker-{number}.out", folder / f"worker-{number}.err"

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def name(self) -> str:
        match = re.search(r"^ready: worker (\S+)", self.out, re.MULTILINE)
        assert match is not None, self.out
        return match[1]

    def wait_ready(self) -> WorkerProcess:
        eventually(lambda: "\n" in self.out or self.process.poll() is not None, 60, lambda: self.err)
        assert self.process.poll() is None, f"ended with {self.process.returncode}\n{self.out}{self.err}"
        return self

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait_code(self) -> int:
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end\n{self.err}") from None

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_code()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Alive by its heartbeats, and silent."""
        suspend(self.process.pid)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)


class Program:
    """Runs ``stem`` with the variables of one fleet. ``close()`` ends what it started."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.variables = dict(variables)
        self.workers: list[WorkerProcess] = []

    @property
    def environment(self) -> dict[str, str]:
        """This process's without its variables of Stem: those of a test run, or of the developer's own fleet."""
        return {name: value for name, value in os.environ.items() if not name.startswith("STEM_")} | self.variables

    def run(self, *arguments: str, input: str | bytes = b"", env: Mapping[str, str] | None = None) -> Done:
        """Run it to its end: forked from a process that has loaded it, where that is the same (:mod:`tests.cli.preloaded`)."""
        given = input.encode() if isinstance(input, str) else input
        environment = {**self.environment, **(env or {})}
        if preloaded.may_be_forked(environment):
            done = preloaded.run(arguments, given, environment, self.folder, _PATIENCE)
        else:
            done = preloaded.started(arguments, given, environment, self.folder, _PATIENCE)
        return Done(done.code, done.out.decode(), done.err.decode())

    def ok(self, *arguments: str, **options: Any) -> Done:
        """Run it, and expect success."""
        done = self.run(*arguments, **options)
        assert done.code == 0, done
        return done

    def refuses(self, code: int, said: str, *arguments: str) -> None:
        """Run it, and expect that it ends with this code, says this on stderr, and has stored no record."""
        done = self.run(*arguments)
        assert done.code == code, done
        assert said in done.err
        if "--json" in arguments:
            assert done.json["code"] == code
        with contextlib.closing(open_revoke_store(self.variables["STEM_RESULT_BACKEND_URL"])) as store:
            assert list(store.records_since("stem", 0)) == []

    def popen(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start it; the caller ends it."""
        return subprocess.Popen(
            [STEM, *arguments],
            env={**self.environment, **(env or {})},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def begin_worker(
        self, *arguments: str, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> WorkerProcess:
        """Start ``stem worker start`` in the project's folder, and don't wait. ``prefix``: a program that runs it."""
        number = next(_numbers)
        application = () if "-A" in arguments else ("-A", "shop:app")
        with (
            (self.folder / f"worker-{number}.out").open("wb") as out,
            (self.folder / f"worker-{number}.err").open("wb") as err,
        ):
            process = subprocess.Popen(
                [*prefix, STEM, "worker", "start", *application, *arguments],
                env={**self.environment, **(env or {})},
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        worker = WorkerProcess(process, self.folder, number)
        self.workers.append(worker)
        return worker

    def start_worker(self, *arguments: str, env: Mapping[str, str] | None = None) -> WorkerProcess:
        """Start ``stem worker start`` and return when it is ready."""
        return self.begin_worker(*arguments, env=env).wait_ready()

    # -- what tests ask again and again -----------------------------------------------------------------------------

    def send(self, name: str, *options: str, **kwargs: Any) -> str:
        """The id of a new task."""
        return self.ok("task", "send", name, "--kwargs", json.dumps(kwargs), *options).out.strip()

    def record(self, task_id: str) -> Any:
        """The recorded state of a task, once there is one."""
        return self.ok("task", "show", task_id, "--json").json

    def ended(self, task_id: str) -> Any:
        """The record of a task that has ended."""
        from stem_kombu.backends.registry import open_backend
        from stem_kombu.settings import Settings

        settings = Settings.from_env(self.variables)
        backend = open_backend(self.variables["STEM_RESULT_BACKEND_URL"], tls=settings.tls)
        try:
            eventually(lambda: (held := backend.get(task_id)) is not None and held.state.is_terminal, 60)
        finally:
            backend.close()
        return self.record(task_id)

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.signal(signal.SIGCONT)
                worker.process.kill()
                worker.process.wait()
