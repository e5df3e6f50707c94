"""Task states and a roster in a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from stem_kombu.backends.base import Backend, RosterView
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.memory import is_live
from stem_kombu.backends.rows import RESULT_TTL, beat_text, heartbeat, heartbeats, task_record, task_text, ttl
from stem_kombu.clock import epoch_us
from stem_kombu.drivers.postgres import PostgresDatabase, PostgresSession
from stem_kombu.drivers.schema import Schema
from stem_kombu.outcome import TaskRecord, admits, carried_over
from stem_kombu.settings import TlsSettings

SCHEMA = Schema.of(
    (
        """CREATE TABLE IF NOT EXISTS stem_tasks (
            task_id text NOT NULL PRIMARY KEY, record text NOT NULL, expires_at timestamptz NOT NULL)""",
        "CREATE INDEX IF NOT EXISTS stem_tasks_expiry ON stem_tasks (expires_at)",
        """CREATE TABLE IF NOT EXISTS stem_roster (
            namespace text NOT NULL, worker text NOT NULL, boot text NOT NULL, beat text NOT NULL,
            stamped_at timestamptz NOT NULL, expires_at timestamptz NOT NULL, PRIMARY KEY (namespace, worker))""",
    )
)
#: Expired rows deleted along with each write: a little each time, so that no write pays for all.
_SWEEP = 20

# A row that isn't there can't be locked, so two first records of one task would both find nothing. A lock on the id's
# hash orders them; taken in ascending order, so that two batches can't wait for each other.
_LOCK = "SELECT pg_advisory_xact_lock(h) FROM (SELECT DISTINCT hashtextextended(i, 20) AS h FROM unnest(%s) AS i ORDER BY 1) AS o"
_HELD = "SELECT task_id, record FROM stem_tasks WHERE task_id = ANY(%s) AND expires_at > clock_timestamp()"
_UPSERT = b"""INSERT INTO stem_tasks (task_id, record, expires_at) VALUES %b
    ON CONFLICT (task_id) DO UPDATE SET record = excluded.record, expires_at = excluded.expires_at"""
_SWEEP_TASKS = """DELETE FROM stem_tasks WHERE task_id IN (
    SELECT task_id FROM stem_tasks WHERE expires_at <= clock_timestamp() LIMIT %s FOR UPDATE SKIP LOCKED)"""
_BEAT = """INSERT INTO stem_roster (namespace, worker, boot, beat, stamped_at, expires_at)
    SELECT %s, %s, %s, %s, at, at + make_interval(secs => %s) FROM (SELECT clock_timestamp() AS at) AS now
    ON CONFLICT (namespace, worker) DO UPDATE SET boot = excluded.boot, beat = excluded.beat,
        stamped_at = excluded.stamped_at, expires_at = excluded.expires_at
    RETURNING stamped_at"""


class PostgresBackend(Backend):
    """A backend in a database, for any number of hosts. Times are by the database's clock."""

    def __init__(
        self, url: str, *, name: str = "URL", tls: TlsSettings | None = None, result_ttl: float = RESULT_TTL
    ) -> None:
        self._database = PostgresDatabase(url, schema=SCHEMA, name=name, tls=tls, purpose="result backend")
        self._result_ttl = result_ttl
        self.url = self._database.url

    def record(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        if not records:
            return []

        def operation(session: PostgresSession) -> list[TaskRecord]:
            ids = list({record.task_id for record in records})
            session.rows(_LOCK, (ids,))
            held = {task_id: self._decoded(task_id, text) for task_id, text in session.rows(_HELD, (ids,))}
            changed: dict[str, TaskRecord] = {}
            outcome = []
            for record in records:
                before = held.get(record.task_id)
                if admits(before, record):
                    changed[record.task_id] = held[record.task_id] = carried_over(before, record)
                outcome.append(held[record.task_id])
            if changed:
                rows = [(task_id, task_text(record), ttl(record, self._result_ttl)) for task_id, record in changed.items()]
                values = session.values("(%s, %s, clock_timestamp() + make_interval(secs => %s))", rows)
                session.execute(_UPSERT % values)
            session.execute(_SWEEP_TASKS, (_SWEEP,))
            return outcome

        return self._database.write(operation)

    def get(self, task_id: str) -> TaskRecord | None:
        rows = self._database.read(lambda session: session.rows(_HELD, ([task_id],)))
        return self._decoded(task_id, rows[0][1]) if rows else None

    def beat(self, heartbeat: Heartbeat) -> datetime:
        return self._database.read(lambda session: self._beat(session, heartbeat))

    def claim(self, heartbeat: Heartbeat) -> Heartbeat | None:
        def operation(session: PostgresSession) -> Heartbeat | None:
            session.rows(_LOCK, ([f"{heartbeat.namespace}/{heartbeat.worker}"],))
            rows = session.rows(
                "SELECT beat, stamped_at, clock_timestamp() FROM stem_roster WHERE namespace = %s AND worker = %s",
                (heartbeat.namespace, heartbeat.worker),
            )
            if rows:
                held = _heartbeat(rows[0][0], rows[0][1])
                if held.boot != heartbeat.boot and is_live(held, rows[0][2]):
                    return held
            self._beat(session, heartbeat)
            return None

        return self._database.write(operation)

    def leave(self, namespace: str, worker: str, boot: str) -> None:
        statement = "DELETE FROM stem_roster WHERE namespace = %s AND worker = %s AND boot = %s"
        self._database.read(lambda session: session.execute(statement, (namespace, worker, boot)))

    def view(self, namespace: str) -> RosterView:
        # One row at least, so that the clock comes along even when nobody is there.
        statement = """SELECT worker, beat, stamped_at, now.at FROM (SELECT clock_timestamp() AS at) AS now
            LEFT JOIN stem_roster ON namespace = %s AND expires_at > now.at ORDER BY worker COLLATE "C" """
        rows = self._database.read(lambda session: session.rows(statement, (namespace,)))
        entries = [(worker, beat, _us(stamped_at)) for worker, beat, stamped_at, _ in rows if worker is not None]
        return RosterView(tuple(heartbeats(entries, f"roster {self.url}")), rows[0][3].astimezone(timezone.utc))

    def ping(self) -> None:
        self._database.read(lambda session: session.rows("SELECT 1"))

    def close(self) -> None:
        self._database.close()

    @staticmethod
    def _beat(session: PostgresSession, beat: Heartbeat) -> datetime:
        session.execute("DELETE FROM stem_roster WHERE expires_at <= clock_timestamp() AND namespace = %s", (beat.namespace,))
        rows = session.rows(_BEAT, (beat.namespace, beat.worker, beat.boot, beat_text(beat), beat.lifetime))
        stamped_at: datetime = rows[0][0].astimezone(timezone.utc)
        return stamped_at

    def _decoded(self, task_id: str, text: str) -> TaskRecord:
        return task_record(text, f"result backend {self.url}: table stem_tasks, task {task_id!r}")


def _us(moment: Any) -> int:
    return epoch_us(moment.astimezone(timezone.utc))


def _heartbeat(text: str, stamped_at: Any) -> Heartbeat:
    return heartbeat(text, _us(stamped_at))
