"""Who holds messages and consumes queues, and whether they still live.

An owner is one open connection. While its process lives, the process holds a record lock on byte ``id`` of the file
``<broker file>-owners``; the kernel drops it at death, by ``kill -9`` as well. Record locks are the right kind: a
forked child does not inherit them (it does inherit ``flock``), they work across containers that share the file, where
process ids mean nothing, and SQLite depends on them anyway.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

from stem_kombu import timeouts
from stem_kombu.transports.sqlite import topology
from stem_kombu.transports.sqlite.errors import EmbeddedBrokerUnavailable


class OwnerLocks:
    """The lock file as one process sees it. There must be one instance per process and file.

    Closing any descriptor of a file drops all locks of the process on it, and a process never conflicts with its own
    locks: so the file is opened once, and own ids are answered from memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(f"{path}-owners")
        self._held: set[int] = set()
        self._fd: int | None = None

    def hold(self, owner_id: int) -> bool:
        """Take the lock of this owner; ``False`` when another process has it."""
        taken = self._try(owner_id)
        if taken:
            self._held.add(owner_id)
        return taken

    def is_dead(self, owner_id: int, lease_until: float, now: float) -> bool:
        """Whether nobody holds this owner's lock."""
        if owner_id in self._held:
            return False
        if sys.platform == "win32":
            return lease_until + timeouts.UNLOCKED_OWNER < now
        free = self._try(owner_id)
        if free:
            self._release(owner_id)
        return free

    def let_go(self, owner_id: int) -> None:
        """Drop the lock of this owner; the file is closed with the last one."""
        if owner_id in self._held:
            self._held.discard(owner_id)
            self._release(owner_id)
        if not self._held:
            self.close()

    def close(self) -> None:
        """Close the file, and with it drop every lock of this process (in a forked child: none)."""
        self._held.clear()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _try(self, owner_id: int) -> bool:
        if sys.platform == "win32":
            return True
        import fcntl

        try:
            if self._fd is None:
                self._fd = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, owner_id)
        except (BlockingIOError, PermissionError):  # EACCES is how some systems say that it is locked
            if self._fd is None:
                raise EmbeddedBrokerUnavailable(
                    f"embedded broker: {self._path} can't be opened", hint="let this user write that file"
                ) from None
            return False
        except OSError as error:
            raise EmbeddedBrokerUnavailable(
                f"embedded broker: {self._path} can't be locked: {error.strerror}",
                hint="put the broker's file on a local disk where this user may write",
            ) from error
        return True

    def _release(self, owner_id: int) -> None:
        if sys.platform != "win32" and self._fd is not None:
            import fcntl

            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, owner_id)


def register(sql: sqlite3.Connection, locks: OwnerLocks, lease: float, now: float) -> int:
    """The id of a new owner whose lock this process holds, before others can see the row.

    A lock that is taken belongs to a process that still has an older, removed file open: the next id is tried.
    """
    while True:
        row = sql.execute(
            "INSERT INTO stem_broker_owner (pid, started_at, lease_until) VALUES (?, ?, ?) RETURNING id",
            (os.getpid(), now, now + lease),
        ).fetchone()
        owner_id = int(row[0])
        if locks.hold(owner_id):
            return owner_id
        sql.execute("DELETE FROM stem_broker_owner WHERE id = ?", (owner_id,))


def renew(sql: sqlite3.Connection, owner_id: int, lease: float, now: float) -> None:
    """Extend the lease on everything that the owner holds."""
    sql.execute("UPDATE stem_broker_owner SET lease_until = ? WHERE id = ?", (now + lease, owner_id))


def exists(sql: sqlite3.Connection, owner_id: int) -> bool:
    """Whether the owner has a row; without one, others took it for dead."""
    return sql.execute("SELECT 1 FROM stem_broker_owner WHERE id = ?", (owner_id,)).fetchone() is not None


def lost(path: Path) -> EmbeddedBrokerUnavailable:
    """What a connection is told whose owner others have removed."""
    return EmbeddedBrokerUnavailable(
        f"embedded broker {path}: another process deleted this connection's owner row",
        hint=f"reconnect; nothing but Stem may touch {path}-owners",
    )


def dead(sql: sqlite3.Connection, locks: OwnerLocks, now: float) -> list[int]:
    """Owners whose process is gone, or whose connection was dropped without being closed."""
    rows = sql.execute("SELECT id, lease_until FROM stem_broker_owner").fetchall()
    return [int(owner_id) for owner_id, lease_until in rows if locks.is_dead(owner_id, lease_until, now)]


def forget(sql: sqlite3.Connection, owner_id: int, now: float) -> None:
    """End an owner: what it held is ready again, its consumers leave, its exclusive queues go."""
    sql.execute("UPDATE stem_broker_message SET owner_id = NULL, lease_until = NULL WHERE owner_id = ?", (owner_id,))
    topology.remove_consumers(sql, owner_id, now)
    for (queue_id,) in sql.execute(
        "SELECT id FROM stem_broker_queue WHERE exclusive_owner = ?", (owner_id,)
    ).fetchall():
        topology.delete_queue(sql, queue_id)
    sql.execute("DELETE FROM stem_broker_owner WHERE id = ?", (owner_id,))
