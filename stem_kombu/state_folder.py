"""The platform's folder for what programs of one user keep."""

from __future__ import annotations

import sys
from pathlib import Path

from stem_kombu.errors import ConfigurationError
from stem_kombu.variables import Variables


def state_folder(env: Variables) -> Path:
    """The platform's per-user folder for state: XDG on Unix, Application Support on macOS, LOCALAPPDATA on Windows."""
    if sys.platform == "win32":
        base = env.get("LOCALAPPDATA")
        return (Path(base) if base else _home(env) / "AppData" / "Local") / "stem"
    if sys.platform == "darwin":
        return _home(env) / "Library" / "Application Support" / "stem"
    base = env.get("XDG_STATE_HOME")
    return (Path(base) if base else _home(env) / ".local" / "state") / "stem"


def _home(env: Variables) -> Path:
    if (home := env.get("HOME")) is not None:
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:  # a container's bare user id
        raise ConfigurationError(
            "no broker is named (STEM_BROKER_URL), and this user has no home folder for the embedded one",
            hint="set STEM_BROKER_URL, or XDG_STATE_HOME to a folder that this user can write",
        ) from None
