"""What the system tells of a process, in numbers and in words."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def name_of_signal(number: int) -> str:
    """Its number, and its name where it has one."""
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def rss_of(pid: int) -> int | None:
    """Resident memory of a process in bytes, ``None`` where that can't be told."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
