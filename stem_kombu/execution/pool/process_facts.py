"""What the system tells of a process, in numbers and in words."""

from __future__ import annotations

import signal


def name_of_signal(number: int) -> str:
    """Its number, and its name where it has one."""
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
