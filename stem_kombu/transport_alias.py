"""The embedded broker under its scheme in Kombu: ``Connection("sqlite:////path")``, ``Celery(broker="sqlite:////path")``.

Kombu has a table of transports and no entry point for more. ``import stem_kombu`` must not import Kombu, which takes longer
than all of ``stem --help``; so the entry is made now when Kombu is there already, else when Kombu's table is imported.
SQLAlchemy's transport is ``sqla+sqlite://`` and keeps its name.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
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


class _Finder(MetaPathFinder):
    """Finds Kombu's table as Python does, and has the entry made once it is loaded."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _enter(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # get_source() and the like, for those who ask
