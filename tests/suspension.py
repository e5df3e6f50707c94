"""Suspending a process (SIGSTOP) while it holds no lock of an SQLite file.

A process that is suspended in the middle of a transaction, which is rare, keeps its file locked: every other process then
fails after its own time limit, whatever the test is about.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from pathlib import Path

from tests.waiting import eventually


def suspend(pid: int) -> None:
    """SIGSTOP; returns when the process is suspended and every database file that it has open can be written."""

    def suspended() -> bool:
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: is_suspended(pid))
        if all(_can_be_written(path) for path in _databases(pid)):
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    eventually(suspended, 60)


def is_suspended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _databases(pid: int) -> set[str]:
    paths = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            paths.add(str(link.readlink()))
    return {path for path in paths if path.endswith(".db")}


def _can_be_written(path: str) -> bool:
    with contextlib.closing(sqlite3.connect(path, timeout=0.1, isolation_level=None)) as probe:
        try:
            probe.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        probe.execute("ROLLBACK")
        return True
