"""What is lost with a child that is dead. Used under the pool's lock only."""

from __future__ import annotations

import logging

from stem_kombu.execution.base import Job
from stem_kombu.execution.frames import ChildState
from stem_kombu.execution.pool.child_handle import ChildHandle
from stem_kombu.execution.pool.scheduler import MOST_RETRIES, JobScheduler
from stem_kombu.outcome import Ending, Outcome, TaskError

logger = logging.getLogger(__name__)


def lost_with(child: ChildHandle, end: str, scheduler: JobScheduler) -> list[tuple[Job, Outcome]]:
    """The jobs that are lost, each with what it ends as; what the child had not begun waits for another one. ``end`` says how
    the child ended."""
    job, child.job = child.job, None
    # The handler of what it had not begun was never called: another child may run that job as if nothing had happened.
    unbegun = list(child.queue.jobs.values())
    if job is not None and child.state is ChildState.HANDED and child.verdict is None:
        unbegun, job = [job, *unbegun], None
    elif job is None and not unbegun and child.state not in (ChildState.RETIRING, ChildState.STARTING):
        logger.warning("idle %s; it is replaced", end)
    lost = [] if job is None else [(job, f"{end} while it ran task {job.message.task_id}")]
    for one in unbegun:
        if not scheduler.retry_on_another_child(one):
            given = f"{MOST_RETRIES + 1} children in a row ended with it"
            lost.append((one, f"task {one.message.task_id} never began: {given}, the last: {end}"))
    return [(one, _outcome(one, text, child, scheduler)) for one, text in lost]


def lost_as(child: ChildHandle) -> str | None:
    """What a dead child was doing, before :func:`lost_with` takes its job away: ``loading`` (the application), ``starting``,
    ``running`` or ``idle``; ``stopped`` where the pool itself ended it. ``None``: it went when it was to go."""
    if child.load_failure is not None:
        return "loading"
    if child.verdict is not None:
        return "stopped"
    if child.state is ChildState.RETIRING:
        return None
    if child.state is ChildState.STARTING:
        return "starting"
    return "idle" if child.job is None else "running"


def _outcome(job: Job, text: str, child: ChildHandle, scheduler: JobScheduler) -> Outcome:
    scheduler.forget(job)
    if child.verdict is not None:
        return child.verdict
    logger.error("%s", text, extra={"task_id": job.message.task_id})
    return child.told(job.token, Outcome(Ending.LOST, error=TaskError("ChildLost", text)))
