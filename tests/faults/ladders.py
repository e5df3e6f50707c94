"""An application whose isolate tasks pass no checkpoint, and the ladders that hit something else than their attempt (G27)."""

from __future__ import annotations

import random
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from stem_kombu.app import Stem
from stem_kombu.context import TaskContext
from stem_kombu.control.client.client import ControlClient
from stem_kombu.ladder import Ladder
from stem_kombu.outcome import EndedHow, TaskRecord, TaskState
from tests.faults.programs import runs
from tests.faults.report import Target
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.faults.targets import Lab

app = Stem("ladders", broker="memory://ladders")

#: Children of the worker, and tasks that are sent at once: half of them are climbed at while they run.
_SLOTS, _AT_ONCE = 8, 16
#: Seconds that a task takes, and after which its signals come: about when it ends by itself, so that signals come too late too.
_NAPS = (0.05, 0.1, 0.2, 0.4)
_KILLS = (0.001, 0.005, 0.02, 0.06, 0.15)
#: By how much the clocks of a record and of a step may differ: a record keeps milliseconds.
_SLACK = timedelta(seconds=0.002)


@app.task("nap", isolate=True, max_retries=0)
def nap(ctx: TaskContext, folder: str, seconds: float) -> None:
    """Say that it runs, and pass no checkpoint."""
    Path(folder, ctx.task_id).touch()
    time.sleep(seconds)


@app.task("bystander", max_retries=0)
def bystander(ctx: TaskContext) -> int:
    """The pid of a program in the worker's own process group."""
    return subprocess.Popen(["sleep", "3600"]).pid


def strayed(lab: Lab, broker: str, trials: int, patience: float) -> tuple[Target, dict[str, int]]:
    """Of ``trials`` ladders, those that hit another attempt, process group or worker, or took a step before its time.

    A task that was not climbed at has to succeed at its first attempt; one that was has to succeed as well, or to be recorded as
    cancelled by a step of its ladder. The worker and a program in the worker's group have to live on.
    """
    dice = random.Random(trials)
    worker = lab.start_worker("alpha", app="tests.faults.ladders", concurrency=_SLOTS)
    witness = lab.app.send_task("bystander").get(timeout=patience)
    done = bad = killed = 0
    with ControlClient(lab.app) as control:
        while done < trials:
            folder = lab.folder / f"naps-{done}"
            folder.mkdir()
            tasks = [f"nap-{done}-{number}" for number in range(_AT_ONCE)]
            results = {
                task: lab.app.send_task(
                    "nap", kwargs={"folder": str(folder), "seconds": dice.choice(_NAPS)}, task_id=task
                )
                for task in tasks
            }
            chosen = set(dice.sample(tasks, _AT_ONCE // 2))
            eventually(lambda: any((folder / task).exists() for task in chosen), patience)  # noqa: B023
            climbed = [task for task in tasks if task in chosen and (folder / task).exists()]
            kill = dice.choice(_KILLS)
            ladder = Ladder(dice.choice((None, kill / 2)), kill)
            control.revoke(climbed, terminate=True, ladder=ladder, timeout=patience)
            for task, result in results.items():
                record = result.wait(timeout=patience)
                bad += not _is_right(record, ladder if task in climbed else None)
                killed += record is not None and record.state is TaskState.CANCELLED
            done += len(climbed)
    bad += worker.process.poll() is not None or not runs(witness)
    subprocess.run(["kill", "-9", str(witness)], check=False)
    target = Target(f"ladders that hit another attempt, group or worker, or too early, {broker}", bad, done, 2000)
    return target, {f"Attempts that a ladder ended before they did, {broker}": killed}


def _is_right(record: TaskRecord | None, ladder: Ladder | None) -> bool:
    if record is None or record.attempt != 1 or record.state not in (TaskState.SUCCEEDED, TaskState.CANCELLED):
        return False
    if record.state is TaskState.SUCCEEDED:
        return True
    ended = record.ended_by
    if ladder is None or ended is None or ended.how not in (EndedHow.TERM, EndedHow.KILL, EndedHow.BEFORE_START):
        return False
    if record.revocation is None or not ended.steps:
        return ended.how is EndedHow.BEFORE_START
    due = {EndedHow.TERM: ladder.term_after, EndedHow.KILL: ladder.kill_after}
    revoked = record.revocation.issued_at
    return all(
        (after := due[step.how]) is not None and step.at - revoked >= timedelta(seconds=after) - _SLACK
        for step in ended.steps
    )


#: By name, with the share of the usual trials.
ROWS = {"ladders": (strayed, 10.0)}
