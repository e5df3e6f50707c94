"""The embedded broker under its scheme in Kombu: ``Connection("sqlite:////path")``, ``Celery(broker="sqlite:////path")``.

Kombu has a table of transports and no entry point for more. ``import stem_kombu`` must not import Kombu, which takes longer
than all of ``stem --help``; so the entry is made now when Kombu is there already, else when Kombu's table is imported.
SQLAlchemy's transport is ``sqla+sqlite://`` and keeps its name.

Neither :mod:`typing` nor :mod:`importlib.abc` is imported here: each costs as much as all of an empty Python's start, and the
health probe, which runs every few seconds, loads this package.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_TABLE = "kombu.transport"
_SCHEME, _TRANSPORT = "sqlite", "stem_kombu.transports.sqlite.registration:Transport"


def register() -> None:
    """Make Kombu know the scheme, now or as soon as its table of transports is imported. Harmless when repeated."""
    table = sys.modules.get(_TABLE)
    if table is not None and hasattr(table, "TRANSPORT_ALIASES"):
        _enter(table)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _enter(table: ModuleType) -> None:
    table.TRANSPORT_ALIASES.setdefault(_SCHEME, _TRANSPORT)


class _Finder:
    """Finds Kombu's table as Python does, and has the entry made once it is loaded."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _TABLE:
            return None
        from importlib.machinery import PathFinder

        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment] # as far as Python uses it, it is one
        return spec


class _Loader:
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _enter(module)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)  # get_source() and the like, for those who ask
