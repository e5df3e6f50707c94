"""Where tasks are defined: by what names another process finds them again."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

#: What the program's main module is called where a child imports it again, as ``multiprocessing`` calls it.
COPY_OF_MAIN = "__mp_main__"
#: What follows the name of a function that makes the application.
CALL = "()"
#: What such functions made in this process, by module and name: children that are forked after that have it as well.
_made: dict[tuple[str, str], object] = {}


@dataclass(frozen=True, slots=True)
class Definition:
    """Where a handler is written, which tells another handler from the same one that is imported again.

    ``load`` is what each import of its module makes anew, and a reload as well. Cells of a notebook and texts of a prompt have no
    file: there a handler replaces the one of before.
    """

    origin: str
    file: str | None
    line: int | None
    load: object

    @classmethod
    def of(cls, handler: Callable[..., object]) -> Definition:
        """Of a function, or of whatever else can be called."""
        module = getattr(handler, "__module__", "?")
        code = getattr(inspect.unwrap(handler), "__code__", None)
        file = None if code is None or not Path(code.co_filename).is_file() else code.co_filename
        return cls(
            f"{module}.{getattr(handler, '__qualname__', repr(handler))}",
            file,
            None if code is None else code.co_firstlineno,
            getattr(sys.modules.get(module), "__spec__", None),
        )

    def is_other(self, that: Definition) -> bool:
        """Whether both are there at once: two functions, or one name twice in one file."""
        twice = self.file is not None and self.file == that.file and self.load is that.load and self.line != that.line
        return self.origin != that.origin or twice

    def __str__(self) -> str:
        return self.origin if self.line is None else f"{self.origin} (line {self.line})"


def usual_name(handler: Callable[..., object]) -> str:
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
    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part)
    return found
