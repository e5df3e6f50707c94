"""Loading the application in a process that is not the worker: a child, or the process that forks children."""

from __future__ import annotations

import runpy
import sys
from importlib import import_module
from types import ModuleType

from stem_kombu.errors import ConfigurationError
from stem_kombu.execution.child.setup import ChildSetup
from stem_kombu.hooks import HookTable
from stem_kombu.locating import COPY_OF_MAIN, located
from stem_kombu.task import Mode, TaskRegistry

#: Whether this process is no worker, but loads one's application.
_loads_here = False
#: The program's main module as it was imported here. Not looked up in sys.modules: multiprocessing puts its own there.
_copy_of_main: ModuleType | None = None


def load(setup: ChildSetup) -> tuple[TaskRegistry, HookTable]:
    """The tasks and hooks of the application; imports what defines them.

    Raises what an import raises, and ``LookupError`` when a task of the worker is not among them.
    """
    if not setup.is_fork:
        global _loads_here
        _loads_here = True
    module, _, attribute = setup.target.partition(":")
    found: object = located(_imported(module, setup), module, attribute)
    refuse_green_threads()
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
    if any(task.is_async and task.mode is Mode.ISOLATE for task in registry):
        import_module("asyncio")  # the process that forks children loads it for all of them
    hooks = getattr(found, "hooks", None)
    return registry, hooks if isinstance(hooks, HookTable) else HookTable()


def refuse_start_while_loading() -> None:
    """Raise :class:`~stem_kombu.errors.ConfigurationError` where a child imports a program that starts a worker as it is
    imported: each child would have a worker, and that one children of its own."""
    if _loads_here:
        raise ConfigurationError(
            "the program starts a worker while it is imported, which each child does as well",
            hint='start it under  if __name__ == "__main__":  or keep the application in a module of its own',
        )


def refuse_green_threads() -> None:
    """Raise :class:`~stem_kombu.errors.ConfigurationError` in a process whose threads gevent or eventlet has replaced: a
    checkpoint, a lease and an answer to a command need real ones."""
    for library, asked, thread in (
        ("gevent.monkey", "is_module_patched", "threading"),
        ("eventlet.patcher", "is_monkey_patched", "thread"),
    ):
        is_patched = getattr(sys.modules.get(library), asked, None)
        if is_patched is not None and is_patched(thread):
            name = library.partition(".")[0]
            raise ConfigurationError(
                f"the application has {name} replace Python's threads (monkey patching), with which a Stem worker can't work",
                hint=f"leave out {name}'s monkey patching where the worker imports it; use coroutine tasks or more inline slots",
            )


def _imported(name: str, setup: ChildSetup) -> ModuleType:
    if name not in ("__main__", COPY_OF_MAIN) or setup.is_fork:
        return import_module(name)
    global _copy_of_main
    if _copy_of_main is None:
        if setup.main_name is not None:
            content = runpy.run_module(setup.main_name, run_name=COPY_OF_MAIN, alter_sys=True)
        elif setup.main_path is not None:
            content = runpy.run_path(setup.main_path, run_name=COPY_OF_MAIN)
        else:
            raise ImportError("the program's main module can't be imported in another process")
        _copy_of_main = ModuleType(COPY_OF_MAIN)
        _copy_of_main.__dict__.update(content)
        sys.modules["__main__"] = sys.modules[COPY_OF_MAIN] = _copy_of_main
    return _copy_of_main
