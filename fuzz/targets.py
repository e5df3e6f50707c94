"""The targets by name, each loaded when asked for: under Atheris what is imported is instrumented."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fuzz.oracle import Refused

#: Name of a target: its module in ``fuzz.doors``, its function there, whether its inputs are JSON.
TARGETS: dict[str, tuple[str, str, bool]] = {
    "control-command": ("control", "command", True),
    "control-reply": ("control", "reply", True),
    "redis-mail": ("control", "redis_mail", True),
    "heartbeat": ("control", "heartbeat", True),
    "celery-control": ("monitors", "celery_control", True),
    "task-message": ("tasks", "task_message", True),
    "embedded-row": ("tasks", "embedded_row", True),
    "pipe-frames": ("frames", "pipe_frames", False),
    "store-file": ("stores", "store_file", False),
    "store-row-redis": ("stores", "redis_row", True),
    "store-row-sqlite": ("stores", "sqlite_row", True),
    "backend-row": ("backends", "record", True),
    "url": ("places", "url", False),
    "environment": ("places", "environment", True),
    "duration": ("places", "duration", False),
    "command-line": ("program", "arguments", False),
}


@dataclass(frozen=True)
class Target:
    """``check(data)`` raises for a finding and for nothing else. ``seeds`` are valid inputs to begin with."""

    name: str
    check: Callable[[bytes], None]
    seeds: list[bytes]
    json: bool

    def __call__(self, data: bytes) -> bool:
        """Whether the door let the input through; raises for a finding."""
        try:
            self.check(data)
        except Refused:
            return False
        return True


def load(name: str) -> Target:
    """The target of that name; raises ``KeyError``."""
    module, function, is_json = TARGETS[name]
    door: Any = import_module(f"fuzz.doors.{module}")
    return Target(name, getattr(door, function), list(getattr(door, f"{function}_seeds")()), is_json)
