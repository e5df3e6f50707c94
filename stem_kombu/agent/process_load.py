"""What the operating system tells of this process and its machine."""

from __future__ import annotations

import os
from pathlib import Path


def rss_bytes() -> int | None:
    """This process's resident memory in bytes, ``None`` where the platform does not tell cheaply."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def load_avg() -> float | None:
    """The machine's load average over one minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
