"""What can go wrong with the broker's file, said so that somebody can act on it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from stem_kombu.errors import BrokerError, BrokerUnavailable


class EmbeddedBrokerUnavailable(BrokerUnavailable):
    """The file can't be used right now: locked for too long, disk full, no permission. A reconnect may succeed."""

    def __str__(self) -> str:
        # Kombu's retry logic re-raises ``str(error)`` as its own OperationalError: the next step has to travel in it.
        return f"{self.message}; {self.hint}" if self.hint else self.message


class EmbeddedBrokerCorrupt(BrokerError):
    """The file is no database, is damaged, or was written by a newer Stem. A reconnect can't help."""

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


_CORRUPT = ("not a database", "malformed", "unsupported file format")
_NEXT_STEPS = (
    ("locked", "find the process that keeps a transaction on it open, such as a backup or a SQLite shell"),
    ("busy", "find the process that keeps a transaction on it open, such as a backup or a SQLite shell"),
    ("full", "free some disk space; nothing that was accepted is lost"),
    ("readonly", "let this user write to the file and to its directory"),
    ("unable to open", "let this user write to its directory, and check that the path names a file"),
    ("disk i/o", "check the disk and the file system's log"),
    ("no such table", "something removed the broker's tables; they are made again by the next connection"),
)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether the same statement may succeed in a moment. By text: error codes came only with Python 3.11."""
    text = str(error).lower()
    return isinstance(error, sqlite3.OperationalError) and ("locked" in text or "busy" in text)


def translated(error: sqlite3.Error, path: Path) -> BrokerError:
    """The same fault as a broker's error that names the file and the next step."""
    text = str(error) or type(error).__name__
    lowered = text.lower()
    if any(sign in lowered for sign in _CORRUPT):
        return EmbeddedBrokerCorrupt(
            f"embedded broker {path}: {text}",
            hint="restore the file, or move it away (with its -wal and -shm) to begin with an empty broker",
        )
    hint = next((step for sign, step in _NEXT_STEPS if sign in lowered), None)
    return EmbeddedBrokerUnavailable(f"embedded broker {path}: {text}", hint=hint)
