"""Which program children are started with: the Python interpreter, also where a server has embedded it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from stem_kombu.errors import ConfigurationError


def interpreter() -> str:
    """The path of the interpreter; raises :class:`~stem_kombu.errors.ConfigurationError` where none can be found.

    ``sys.executable`` is the server's own program under uWSGI and others that embed Python, and blank in some.
    """
    if getattr(sys, "frozen", False) or _is_python(sys.executable):
        return sys.executable
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for prefix in dict.fromkeys((sys.prefix, sys.exec_prefix, sys.base_prefix)):
        for name in (f"python{version}", f"python{sys.version_info.major}", "python"):
            path = Path(prefix) / "bin" / name
            if path.is_file() and os.access(path, os.X_OK):
                return str(path)
    raise ConfigurationError(
        f"isolate children are started with a Python interpreter, but sys.executable is {sys.executable!r}, and there is no"
        f" python in {Path(sys.prefix) / 'bin'}",
        hint="name the interpreter where Python is embedded (uWSGI: --py-sys-executable), or run the worker by itself",
    )


def _is_python(path: str | None) -> bool:
    return bool(path) and Path(path or "").name.lower().startswith(("python", "pypy"))
