"""Task states and a roster in a SQLite file, which may hold Stem's other tables as well."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from stem_kombu.backends.base import Backend, RosterView
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.memory import is_live
from stem_kombu.backends.rows import RESULT_TTL, beat_text, heartbeat, heartbeats, task_record, task_text, ttl
from stem_kombu.clock import SYSTEM, Clock, epoch_us, from_epoch_us
from stem_kombu.drivers.schema import Schema
from stem_kombu.drivers.sqlite import SqliteDatabase
from stem_kombu.outcome import TaskRecord, admits, carried_over

SCHEMA = Schema.of(
    (
        """CREATE TABLE IF NOT EXISTS stem_tasks (
            task_id TEXT NOT NULL PRIMARY KEY, record TEXT NOT NULL, expires_us INTEGER NOT NULL) WITHOUT ROWID""",
        "CREATE INDEX IF NOT EXISTS stem_tasks_expiry ON stem_tasks (expires_us)",
        """CREATE TABLE IF NOT EXISTS stem_roster (
            namespace TEXT NOT NULL, worker TEXT NOT NULL, boot TEXT NOT NULL, beat TEXT NOT NULL,
            stamped_us INTEGER NOT NULL, expires_us INTEGER NOT NULL, PRIMARY KEY (namespace, worker)) WITHOUT ROWID""",
    )
)
#: Expired rows deleted along with each write: a little each time, so that no write pays for all.
_SWEEP = 20


class SqliteBackend(Backend):
    """A backend in one file, for the processes of one host. Times are by the host's clock; a recorded state survives a
    power cut (``synchronous=FULL``)."""

    def __init__(
        self, path: Path, *, clock: Clock = SYSTEM, create_folder: bool = False, result_ttl: float = RESULT_TTL
    ) -> None:
        self._database = SqliteDatabase(path, schema=SCHEMA, purpose="result backend", create_folder=create_folder)
        self._clock = clock
        self._result_ttl = result_ttl
        self.url = self._database.url

    def record(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        if not records:
            return []

        def operation(connection: sqlite3.Connection) -> list[TaskRecord]:
            now = self._clock.utcnow()
            stored: dict[str, TaskRecord] = {}
            outcome = []
            for record in records:
                held = stored.get(record.task_id) or self._held(connection, record.task_id, now)
                if admits(held, record):
                    held = carried_over(held, record)
                    expires_us = epoch_us(now) + int(ttl(held, self._result_ttl) * 1_000_000)
                    connection.execute(
                        "INSERT OR REPLACE INTO stem_tasks VALUES (?, ?, ?)", (held.task_id, task_text(held), expires_us)
                    )
                assert held is not None  # what isn't held is always admitted
                stored[record.task_id] = held
                outcome.append(held)
            connection.execute(
                "DELETE FROM stem_tasks WHERE task_id IN (SELECT task_id FROM stem_tasks WHERE expires_us <= ? LIMIT ?)",
                (epoch_us(now), _SWEEP),
            )
            return outcome

        return self._database.write(operation)

    def get(self, task_id: str) -> TaskRecord | None:
        now = self._clock.utcnow()
        return self._database.read(lambda connection: self._held(connection, task_id, now))

    def beat(self, heartbeat: Heartbeat) -> datetime:
        return self._database.write(lambda connection: self._beat(connection, heartbeat))

    def claim(self, heartbeat: Heartbeat) -> Heartbeat | None:
        def operation(connection: sqlite3.Connection) -> Heartbeat | None:
            held = self._entry(connection, heartbeat.namespace, heartbeat.worker)
            if held is not None and held.boot != heartbeat.boot and is_live(held, self._clock.utcnow()):
                return held
            self._beat(connection, heartbeat)
            return None

        return self._database.write(operation)

    def leave(self, namespace: str, worker: str, boot: str) -> None:
        statement = "DELETE FROM stem_roster WHERE namespace = ? AND worker = ? AND boot = ?"
        self._database.write(lambda connection: connection.execute(statement, (namespace, worker, boot)).rowcount)

    def view(self, namespace: str) -> RosterView:
        now = self._clock.utcnow()
        statement = """SELECT worker, beat, stamped_us FROM stem_roster
            WHERE namespace = ? AND expires_us > ? ORDER BY worker"""
        rows = self._database.read(lambda connection: connection.execute(statement, (namespace, epoch_us(now))).fetchall())
        return RosterView(tuple(heartbeats(rows, f"roster {self.url}")), now)

    def ping(self) -> None:
        self._database.read(lambda connection: connection.execute("SELECT 1 FROM stem_roster LIMIT 1").fetchall())

    def close(self) -> None:
        self._database.close()

    def _beat(self, connection: sqlite3.Connection, beat: Heartbeat) -> datetime:
        now_us = epoch_us(self._clock.utcnow())
        connection.execute("DELETE FROM stem_roster WHERE expires_us <= ?", (now_us,))
        connection.execute(
            "INSERT OR REPLACE INTO stem_roster VALUES (?, ?, ?, ?, ?, ?)",
            (beat.namespace, beat.worker, beat.boot, beat_text(beat), now_us, now_us + int(beat.lifetime * 1_000_000)),
        )
        return from_epoch_us(now_us)

    @staticmethod
    def _entry(connection: sqlite3.Connection, namespace: str, worker: str) -> Heartbeat | None:
        statement = "SELECT beat, stamped_us FROM stem_roster WHERE namespace = ? AND worker = ?"
        row = connection.execute(statement, (namespace, worker)).fetchone()
        return None if row is None else heartbeat(row[0], row[1])

    def _held(self, connection: sqlite3.Connection, task_id: str, now: datetime) -> TaskRecord | None:
        statement = "SELECT record FROM stem_tasks WHERE task_id = ? AND expires_us > ?"
        row = connection.execute(statement, (task_id, epoch_us(now))).fetchone()
        return None if row is None else task_record(row[0], f"result backend {self.url}: table stem_tasks, task {task_id!r}")
