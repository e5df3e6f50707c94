"""Task states and a roster in a SQLite file, which may hold Stem's other tables as well."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from stem_kombu import chance, timeouts
from stem_kombu.backends.base import Backend, RosterView
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.heartbeat_reader import BeatReader, beat_text
from stem_kombu.backends.pruning import PruneSchedule
from stem_kombu.backends.stored import (
    checked_ttl,
    giving_way,
    lifetime,
    parsed_record,
    readable,
    readable_records,
    record_text,
    storable_id,
)
from stem_kombu.clock import SYSTEM, Clock, epoch_us, from_epoch_us
from stem_kombu.drivers.schema import Schema
from stem_kombu.drivers.sqlite import SqliteDatabase
from stem_kombu.errors import StoreCorrupt
from stem_kombu.outcome import TaskRecord, TaskState, admits, carried_over

SCHEMA = Schema.of(
    (
        # With row ids: a result of a megabyte must not sit in the tree that every look-up walks.
        """CREATE TABLE IF NOT EXISTS stem_tasks (
            task_id TEXT NOT NULL PRIMARY KEY, expires_us INTEGER NOT NULL, record TEXT NOT NULL)""",
        "CREATE INDEX IF NOT EXISTS stem_tasks_expiry ON stem_tasks (expires_us)",
        """CREATE TABLE IF NOT EXISTS stem_roster (
            namespace TEXT NOT NULL, worker TEXT NOT NULL, boot TEXT NOT NULL, stamped_us INTEGER NOT NULL,
            expires_us INTEGER NOT NULL, beat TEXT NOT NULL, PRIMARY KEY (namespace, worker)) WITHOUT ROWID""",
    )
)
_HELD = "SELECT record FROM stem_tasks WHERE task_id = ? AND expires_us > ?"
_KEEP = """INSERT INTO stem_tasks (task_id, expires_us, record) VALUES (?, ?, ?)
    ON CONFLICT (task_id) DO UPDATE SET expires_us = excluded.expires_us, record = excluded.record"""
_PAGE = """SELECT rowid, task_id, record FROM stem_tasks WHERE rowid < ? AND expires_us > ?
    ORDER BY rowid DESC LIMIT 500"""
_PRUNE = "DELETE FROM stem_tasks WHERE rowid IN (SELECT rowid FROM stem_tasks WHERE expires_us <= ? LIMIT ?)"
_ENTRY = "SELECT worker, beat, stamped_us FROM stem_roster WHERE namespace = ? AND worker = ?"
_ENTRIES = "SELECT worker, beat, stamped_us FROM stem_roster WHERE namespace = ? AND expires_us > ?"
_BEAT = (
    "INSERT OR REPLACE INTO stem_roster (namespace, worker, boot, stamped_us, expires_us, beat) VALUES (?,?,?,?,?,?)"
)


_HIGHEST_ROW = 2**63 - 1


class SqliteBackend(Backend):
    """A backend in one file, for the processes of one host. Times are by the host's clock.

    A batch is one transaction with ``synchronous=FULL``: a message is acknowledged after its outcome is recorded, so a
    power cut that took the record with it (as ``NORMAL`` allows) would leave a task ``running`` for ever. The cost, one
    flush to disk a batch, is shared by the records of the batch.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock = SYSTEM,
        create_folder: bool = False,
        result_ttl: float = timeouts.RESULT_TTL,
        purpose: str = "result backend",
    ) -> None:
        self._database = SqliteDatabase(path, schema=SCHEMA, purpose=purpose, create_folder=create_folder)
        self._clock = clock
        self._result_ttl = checked_ttl(result_ttl)
        self._pace = PruneSchedule(clock)
        self.url = self._database.url
        self._beats = BeatReader(f"roster {self.url}")

    # -- task states ------------------------------------------------------------------------------------------------

    def record(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        if not records:
            return []
        for record in records:
            record_text(record)  # one that can't be stored is refused even where the rule would not admit it
        limit = self._pace.due(len(records))

        def operation(connection: sqlite3.Connection) -> list[TaskRecord]:
            now_us = self._now_us()
            held: dict[str, TaskRecord | None] = {}
            after = []
            for record in records:
                task_id = record.task_id
                before = held[task_id] if task_id in held else self._readable(connection, task_id, now_us)
                if before is None or admits(before, record):
                    before = carried_over(before, record)
                    expires_us = now_us + int(lifetime(before.state, self._result_ttl) * 1_000_000)
                    connection.execute(_KEEP, (task_id, expires_us, record_text(before)))
                held[task_id] = before
                after.append(before)
            if limit:
                connection.execute(_PRUNE, (now_us, limit))
            return after

        return self._database.write(operation)

    def get(self, task_id: str) -> TaskRecord | None:
        if not storable_id(task_id):
            return None
        return self._database.read(lambda connection: self._held(connection, task_id, self._now_us()))

    def scan(self, states: Collection[TaskState] | None = None) -> Iterator[TaskRecord]:
        before, now_us = _HIGHEST_ROW, self._now_us()

        def page(connection: sqlite3.Connection) -> list[tuple[int, str, str]]:
            return connection.execute(_PAGE, (before, now_us)).fetchall()

        while rows := self._database.read(page):
            yield from readable_records((row[1:] for row in rows), states, place=f"result backend {self.url}")
            before = rows[-1][0]

    def find(self, task_ids: Sequence[str]) -> dict[str, TaskRecord | None]:
        wanted = [task_id for task_id in task_ids if storable_id(task_id)]

        def operation(connection: sqlite3.Connection) -> list[tuple[str, str]]:
            now_us = self._now_us()
            rows = ((task_id, connection.execute(_HELD, (task_id, now_us)).fetchone()) for task_id in wanted)
            return [(task_id, row[0]) for task_id, row in rows if row is not None]

        return {
            task_id: readable(task_id, text, place=self._place(task_id))
            for task_id, text in self._database.read(operation)
        }

    def _place(self, task_id: str) -> str:
        return f"result backend {self.url}: table stem_tasks, task {task_id!r}"

    def _held(self, connection: sqlite3.Connection, task_id: str, now_us: int) -> TaskRecord | None:
        row = connection.execute(_HELD, (task_id, now_us)).fetchone()
        return None if row is None else parsed_record(task_id, row[0], place=self._place(task_id))

    def _readable(self, connection: sqlite3.Connection, task_id: str, now_us: int) -> TaskRecord | None:
        try:
            return self._held(connection, task_id, now_us)
        except StoreCorrupt as error:
            giving_way(error)
            return None

    # -- roster -----------------------------------------------------------------------------------------------------

    def beat(self, heartbeat: Heartbeat) -> datetime:
        return self._database.write(partial(self._beat, beat=heartbeat))

    def offer(self, heartbeat: Heartbeat, *, dead: Heartbeat | None = None) -> tuple[datetime, Heartbeat | None]:
        def operation(connection: sqlite3.Connection) -> tuple[datetime, Heartbeat | None]:
            row = connection.execute(_ENTRY, (heartbeat.namespace, heartbeat.worker)).fetchone()
            held = None if row is None else self._beats.one(heartbeat.namespace, *row)
            if held is not None and held.blocks(heartbeat, now := self._clock.utcnow(), dead):
                return now, held
            return self._beat(connection, heartbeat), None

        return self._database.write(operation)

    def leave(self, namespace: str, worker: str, boot: str) -> None:
        statement = "DELETE FROM stem_roster WHERE namespace = ? AND worker = ? AND boot = ?"
        self._database.execute(statement, (namespace, worker, boot))

    def view(self, namespace: str) -> RosterView:
        def operation(connection: sqlite3.Connection) -> tuple[int, list[tuple[Any, ...]]]:
            now_us = self._now_us()
            return now_us, connection.execute(_ENTRIES, (namespace, now_us)).fetchall()

        now_us, rows = self._database.read(operation)
        beats, aside = self._beats.all(namespace, ((str(worker), *entry) for worker, *entry in rows))
        return RosterView(beats, from_epoch_us(now_us), len(aside), aside)

    def _beat(self, connection: sqlite3.Connection, beat: Heartbeat) -> datetime:
        now_us = self._now_us()
        expires_us = now_us + int(beat.lifetime * 1_000_000)
        connection.execute("DELETE FROM stem_roster WHERE expires_us <= ?", (now_us,))
        connection.execute(_BEAT, (beat.namespace, beat.worker, beat.boot, now_us, expires_us, beat_text(beat)))
        return from_epoch_us(now_us)

    # -- both -------------------------------------------------------------------------------------------------------

    def check(self, namespace: str) -> list[str]:
        marker = f"stem-health-{chance.token_hex(8)}"

        def written(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO stem_tasks (task_id, expires_us, record) VALUES (?, 0, '')", (marker,))
            connection.execute("DELETE FROM stem_tasks WHERE task_id = ?", (marker,))

        self._database.write(written)
        return []

    def ping(self) -> None:
        self._database.rows("SELECT 1 FROM stem_roster LIMIT 1")

    def close(self) -> None:
        self._database.close()

    def _now_us(self) -> int:
        return epoch_us(self._clock.utcnow())
