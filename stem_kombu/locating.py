"""Where tasks are defined: by what names another process finds them again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

#: What the program's main module is called where a child imports it again, as ``multiprocessing`` calls it.
COPY_OF_MAIN = "__mp_main__"
#: What follows the name of a function that makes the application.
CALL = "()"
#: What such functions made in this process, by module and name: children that are forked after that have it as well.
_made: dict[tuple[str, str], Any] = {}


def usual_name(handler: Callable[..., Any]) -> str:
    """The name of a task that was given none: module and qualified name, the same in a worker and in its children."""
    module = str(handler.__module__)
    return f"{'__main__' if module == COPY_OF_MAIN else module}.{handler.__qualname__}"


def defining_module() -> str | None:
    """The module whose code registers a task now: the nearest caller outside of the application's own module."""
    frame = sys._getframe(1)
    own = frame.f_globals.get("__name__")
    while frame.f_back is not None and frame.f_globals.get("__name__") == own:
        frame = frame.f_back
    return frame.f_globals.get("__name__")


def located(module: ModuleType, name: str, attribute: str) -> Any:
    """The attribute ``a.b`` of the module called ``name``; for ``a.b()`` what calling it without arguments returns, which
    is called once in a process. Raises ``AttributeError``, and what the call raises."""
    if attribute.endswith(CALL):
        if (name, attribute) not in _made:
            _made[name, attribute] = located(module, name, attribute.removesuffix(CALL))()
        return _made[name, attribute]
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part)
    return found
