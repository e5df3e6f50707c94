"""Loading the application in a process that is not the worker: a child, or the process that forks children."""

from __future__ import annotations

import runpy
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from stem_kombu.execution.child_setup import ChildSetup
from stem_kombu.hooks import HookTable
from stem_kombu.locating import COPY_OF_MAIN
from stem_kombu.task import TaskRegistry


def load(setup: ChildSetup) -> tuple[TaskRegistry, HookTable]:
    """The tasks and hooks of the application; imports what defines them.

    Raises what an import raises, and ``LookupError`` when a task of the worker is not among them.
    """
    module, _, attribute = setup.target.partition(":")
    found: Any = _imported(module, setup)
    for name in attribute.split("."):
        found = getattr(found, name)
    registry = getattr(found, "registry", found)
    if not isinstance(registry, TaskRegistry):
        raise TypeError(f"{setup.target} is no Stem application")
    troubles = []
    for other in setup.modules:
        try:
            _imported(other, setup)
        except Exception as error:  # noqa: BLE001 - any code runs there; it matters only where a task is missing then
            troubles.append(f"importing {other} failed: {type(error).__name__}: {error}")
    if missing := [name for name in setup.tasks if name not in registry]:
        where = f" ({'; '.join(troubles)})" if troubles else ""
        raise LookupError(
            f"isolate tasks that this worker has are not registered in a child: {', '.join(sorted(missing))}{where}."
            " Define them at the top level of a module, and name it with Stem(include=[...])"
        )
    hooks = getattr(found, "hooks", None)
    return registry, hooks if isinstance(hooks, HookTable) else HookTable()


def _imported(name: str, setup: ChildSetup) -> ModuleType:
    if name not in ("__main__", COPY_OF_MAIN) or setup.is_fork:
        return import_module(name)
    if COPY_OF_MAIN not in sys.modules:
        if setup.main_name is not None:
            content = runpy.run_module(setup.main_name, run_name=COPY_OF_MAIN, alter_sys=True)
        elif setup.main_path is not None:
            content = runpy.run_path(setup.main_path, run_name=COPY_OF_MAIN)
        else:
            raise ImportError("the program's main module can't be imported in another process")
        module = ModuleType(COPY_OF_MAIN)
        module.__dict__.update(content)
        sys.modules["__main__"] = sys.modules[COPY_OF_MAIN] = module
    return sys.modules[COPY_OF_MAIN]
