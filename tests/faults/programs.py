"""An application whose isolate tasks start programs two levels deep, and what was left of them two seconds after an end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stem_kombu.app import Stem
from stem_kombu.context import TaskContext
from stem_kombu.control.client.client import ControlClient
from stem_kombu.ladder import Ladder
from tests.faults.notes import now
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.faults.targets import Lab

app = Stem("programs", broker="memory://programs")

#: Seconds after which nothing of a child's group may run (G28).
BOUND = 2.0
#: Tasks that are struck at once.
_AT_ONCE = 4
_SCRIPT = 'sh -c "echo \\$\\$ >> $0; exec sleep 600" $0 & echo $$ >> $0; wait'


def _programs(ctx: TaskContext, file: str) -> None:
    subprocess.Popen(["sh", "-c", _SCRIPT, file])
    Path(file).with_suffix(".child").write_text(str(os.getpid()))
    time.sleep(600)


app.task("programs", isolate=True, max_retries=0)(_programs)
app.task("limited", isolate=True, max_retries=0, time_limit=1.0)(_programs)


def left_running(lab: Lab, how: str, trials: int, patience: float) -> tuple[int, int]:
    """How many of ``trials`` tasks had a program that ran two seconds after the task's child or worker ended, and of how many.

    ``how``: ``limit`` (a hard time limit), ``kill`` (SIGKILL by a ladder), ``child`` (SIGKILL of the child) or ``worker``
    (SIGKILL of the worker).
    """
    options: dict[str, Any] = {"app": "tests.faults.programs", "concurrency": _AT_ONCE}
    worker, done, bad = lab.start_worker("alpha", **options), 0, 0
    while done < trials:
        name = "limited" if how == "limit" else "programs"
        files = [lab.folder / f"{how}-{done + n}.pids" for n in range(1 if how == "worker" else _AT_ONCE)]
        results = [lab.app.send_task(name, kwargs={"file": str(file)}) for file in files]
        for file in files:
            eventually(lambda file=file: len(_pids(file)) == 2, patience)  # type: ignore[misc]
        if how == "worker":
            lab.end(worker, signal.SIGKILL)
        if how == "kill":
            with ControlClient(lab.app) as control:
                ids = [result.id for result in results]
                control.revoke(ids, terminate=True, ladder=Ladder(None, 0.05), timeout=patience)
        for file, result in zip(files, results, strict=True):
            if how == "child":
                os.kill(int(file.with_suffix(".child").read_text()), signal.SIGKILL)
            if how != "worker":
                result.wait(timeout=patience)
        ended = now()
        while now() < ended + BOUND and any(runs(pid) for file in files for pid in _pids(file)):
            time.sleep(0.02)
        if late := sum(any(runs(pid) for pid in _pids(file)) for file in files):
            with suppress(AssertionError):  # how late, as the machine may have had no time for it
                eventually(lambda files=files: not any(runs(pid) for file in files for pid in _pids(file)), 60)  # type: ignore[misc]
            print(f"{how}: {late} of {len(files)} ran longer than {BOUND:g} s: {now() - ended:.1f} s", flush=True)
        bad += late
        done += len(files)
        if how == "worker":
            with ControlClient(lab.app) as control:  # the message comes back, and would run in the next worker
                control.revoke([result.id for result in results], timeout=1.0)
            worker = lab.start_worker("alpha", **options)
    return bad, done


def _pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
