"""billiard's tracker of semaphores is there for those who have semaphores, and for nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.execution.programs import run_program

PROGRAM = """
    import sys

    import billiard

    from stem_kombu.execution.pool.pool import IsolatePool
    from stem_kombu.testing.executors import JobMaker, Recording
    from tests.execution.handlers import app, tracker_pipe

    TARGET = "tests.execution.handlers:app"
    observer, make = Recording(), JobMaker(app.registry, "isolate")


    def started():
        pool = IsolatePool(2, TARGET, observer, start_method=sys.argv[1])
        pool.start()
        return pool


    def guarded(pool):
        job = make("guarded")
        pool.submit(job)
        return observer.outcome(job, 30).result


    if __name__ == "__main__":
        pool = started()
        print("with a pool:", tracker_pipe())
        print("a handler's semaphore is tracked:", guarded(pool) is not None, "and here:", tracker_pipe())
        pool.stop(5.0)
        with billiard.get_context("spawn").Semaphore(1):
            ours = tracker_pipe()
            print("the program's semaphore is tracked:", ours is not None)
            pool = started()
            print("the handlers share its tracker:", guarded(pool) == ours == tracker_pipe())
            pool.stop(5.0)
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_tracker_runs_once_somebody_has_a_semaphore(method: str, tmp_path: Path) -> None:
    done = run_program(PROGRAM, tmp_path, method)
    assert done.stdout.splitlines() == [
        "with a pool: None",
        "a handler's semaphore is tracked: True and here: None",
        "the program's semaphore is tracked: True",
        "the handlers share its tracker: True",
    ], done.stderr
    assert "Traceback" not in done.stderr
