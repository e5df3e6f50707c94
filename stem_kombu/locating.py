"""Where tasks are defined: by what names another process finds them again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

#: What the program's main module is called where a child imports it again, as ``multiprocessing`` calls it.
COPY_OF_MAIN = "__mp_main__"


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
