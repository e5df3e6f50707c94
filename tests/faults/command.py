"""The ``stem`` command that dies or halts at a step of a revoke: ``python -m tests.faults.command STEP worker revoke …``.

STEP is one of :data:`STEPS`, or that after ``halt-``. The command is the real one; the wrapper only kills its own process
there (SIGKILL) or stops it until somebody continues it (SIGSTOP), and notes what the store has said that it holds.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from stem_kombu.control.client.command_request import CommandRequest
from stem_kombu.control.client.command_sender import CommandSender
from stem_kombu.control.client.places import ClientPlaces
from stem_kombu_cli.main import main
from tests.faults.notes import note, now

STEPS = ("never", "before-store", "after-store", "before-broadcast", "after-broadcast", "before-replies")


#: What goes before a step at which the command is to stop and not to die.
HALT = "halt-"


def around(owner: Any, name: str, *, before: Callable[[], None] | None = None, after: Any = None) -> None:
    held = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before()
        began = now()
        result = held(*args, **kwargs)
        if after is not None:
            after(began, result)
        return result

    setattr(owner, name, wrapped)


def arm(step: str) -> None:
    held = ClientPlaces.revoke_store
    number = signal.SIGSTOP if step.startswith(HALT) else signal.SIGKILL
    step = step.removeprefix(HALT)

    def die() -> None:
        os.kill(os.getpid(), number)

    def opened(self: ClientPlaces) -> Any:
        store = held(self)

        def stored(began: float, done: Any) -> None:
            for record in done.revocations:
                note("stored", began=began, task=record.task_id, version=record.version, terminate=record.terminate)
            if step == "after-store":
                die()

        around(store, "change", before=die if step == "before-store" else None, after=stored)
        return store

    ClientPlaces.revoke_store = opened  # type: ignore[method-assign]
    if step == "before-broadcast":
        around(CommandRequest, "begin", before=die)
    if step == "after-broadcast":
        around(CommandRequest, "begin", after=lambda *_: die())
    if step == "before-replies":
        around(CommandSender, "_collect", before=die)


if __name__ == "__main__":
    arm(sys.argv[1])
    main(sys.argv[2:])
