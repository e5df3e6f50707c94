"""What a child has to know to become one: which application to load, and what its worker expects of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from stem_kombu.errors import ConfigurationError
from stem_kombu.logs import LogSetup
from stem_kombu.task import Mode

if TYPE_CHECKING:
    from stem_kombu.app import Stem


@dataclass(frozen=True, slots=True)
class ChildOptions:
    """How a worker keeps its children: when one is replaced (``max_rss`` in bytes), how it is started, and how it logs."""

    max_tasks: int | None = None
    max_rss: int | None = None
    start_method: str = "forkserver"
    preload: str = "auto"
    log: LogSetup | None = None

    def of_worker(self, worker: str) -> ChildOptions:
        """The same for the children of that worker, which log as this process does unless something else is given."""
        return replace(self, log=replace(self.log or LogSetup.of_this_process(), worker=worker))


@dataclass(frozen=True, slots=True)
class ChildSetup:
    """``target`` is ``module:attribute`` of the application. It travels to the child by pickle."""

    target: str
    #: Modules that define the isolate tasks, imported after the application's own.
    modules: tuple[str, ...] = ()
    #: Names of the isolate tasks, all of which a child must have.
    tasks: tuple[str, ...] = ()
    #: The program's main module, where that has to be imported: its name, or else the path of its file.
    main_name: str | None = None
    main_path: str | None = None
    #: Bytes of resident memory from which on a child begins nothing by itself, as its worker is about to replace it.
    max_rss: int | None = None
    #: What the process that forks children imports first: ``auto``, ``always``, ``never`` or the name of a module.
    preload: str = "auto"
    #: How it logs; ``None``: as it comes.
    log: LogSetup | None = None
    #: The process whose end is the child's.
    worker_pid: int = 0
    #: Of that process, for the environment of what tasks start (:mod:`stem_kombu.execution.leftovers`).
    mark: str | None = None
    #: Whether the child is a plain fork of the worker, which has everything loaded.
    is_fork: bool = False

    @classmethod
    def of(cls, app: Stem, options: ChildOptions) -> ChildSetup:
        """What children of a worker of this application need; raises :class:`ConfigurationError` when they could not find it."""
        target = app.target
        if target is None:
            raise ConfigurationError(
                f"{app!r} has isolate tasks but is no attribute of a module, so that child processes can't import it",
                hint="make it at the top level of a module, or start the worker with  stem worker start -A MODULE:FUNCTION",
            )
        isolates = [task for task in app.registry if task.mode is Mode.ISOLATE]
        named = [name for task in isolates for name in (task.defined_in, getattr(task.handler, "__module__", None))]
        modules = [name for name in dict.fromkeys((*app.include, *named)) if name]
        setup = cls(
            target, tuple(modules), tuple(task.name for task in isolates), preload=options.preload, log=options.log
        )
        if options.start_method == "fork":
            return replace(setup, is_fork=True)
        if "__main__" in (target.partition(":")[0], *modules):
            return setup._with_main(sys.modules["__main__"])
        return setup

    def _with_main(self, main: ModuleType) -> ChildSetup:
        name = getattr(getattr(main, "__spec__", None), "name", None)
        if name is not None and name.rpartition(".")[2] != "__main__":
            return replace(self, main_name=name)
        path = getattr(main, "__file__", None)
        if path is None or not Path(path).is_file():
            raise ConfigurationError(
                "isolate tasks are defined in an interactive session or in text that was piped to Python, which child"
                " processes can't import",
                hint="put the application and its tasks into a module, or make the tasks inline ones",
            )
        return replace(self, main_path=str(Path(path).absolute()))
