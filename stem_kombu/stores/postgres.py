"""Revocations in a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from itertools import chain

from stem_kombu import chance
from stem_kombu.drivers.postgres import PostgresDatabase
from stem_kombu.drivers.postgres_conditions import warnings
from stem_kombu.drivers.postgres_session import PostgresSession, array_text
from stem_kombu.drivers.schema import Schema
from stem_kombu.errors import StoreError, StoreUnavailable
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_page import page_of
from stem_kombu.settings import TlsSettings
from stem_kombu.stores import postgres_records, postgres_rows
from stem_kombu.stores.base import Glance, RecordKeepingStore
from stem_kombu.stores.batch import BEFORE_ALL, CEILING, sane_version
from stem_kombu.stores.postgres_rows import PAGE, pages
from stem_kombu.stores.read_ahead import pages_from
from stem_kombu.stores.records import Change, Changed, changed, checked, named
from stem_kombu.stores.sql_rows import readable

SCHEMA = Schema.of(
    (
        """CREATE TABLE IF NOT EXISTS stem_revocations (
            namespace text NOT NULL, task_id text NOT NULL, version bigint NOT NULL, issued_at timestamptz NOT NULL,
            terminate boolean NOT NULL, reason text, requested_by text, expires_at timestamptz,
            PRIMARY KEY (namespace, task_id))""",
        "CREATE UNIQUE INDEX IF NOT EXISTS stem_revocations_version ON stem_revocations (namespace, version)",
        """CREATE INDEX IF NOT EXISTS stem_revocations_expiry ON stem_revocations (namespace, expires_at)
            WHERE expires_at IS NOT NULL""",
        """CREATE TABLE IF NOT EXISTS stem_revocation_versions (
            namespace text NOT NULL PRIMARY KEY, version bigint NOT NULL)""",
        *postgres_records.TABLES,
    ),
    columns=[("stem_revocations", "proofs", "text")],
)
#: What is read, times as microseconds: the database's calendar is longer than Python's, and what ends beyond it never ends.
_READ = """task_id, version, (extract(epoch FROM least(greatest(issued_at, timestamptz '0001-01-02 00:00+00'),
    timestamptz '9999-12-30 00:00+00')) * 1000000)::bigint, terminate, reason, requested_by,
    (extract(epoch FROM CASE WHEN expires_at < timestamptz '9999-12-30 00:00+00'
    THEN greatest(expires_at, timestamptz '0001-01-02 00:00+00') END) * 1000000)::bigint, proofs"""

# The row of the namespace stays locked until COMMIT, and PostgreSQL makes a transaction visible before it lets its
# locks go: so versions become visible in the order in which they were given. A sequence would not do that.
_LOCK_NAMESPACE = """
    INSERT INTO stem_revocation_versions AS held (namespace, version) VALUES (%s, 0)
    ON CONFLICT (namespace) DO UPDATE SET version = held.version
    RETURNING version, clock_timestamp()"""

_COUNTER = "SELECT version FROM stem_revocation_versions WHERE namespace = %s"
_HIGHEST = f"SELECT max(version) FROM stem_revocations WHERE namespace = %s AND version < {CEILING}"
#: The cluster, its timeline (a promotion begins another one), and the table's file (a restored dump is another one).
_IDENTITY = """(SELECT system_identifier FROM pg_control_system()) || '/'
    || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/' || pg_relation_filenode('stem_revocations')"""

#: Adds a row of a namespace that nothing else has, and removes it; in one transaction, so that no reader ever sees it.
_MARKERS = (
    (
        "INSERT INTO stem_revocation_versions (namespace, version) VALUES (%s, 0)",
        "DELETE FROM stem_revocation_versions WHERE namespace = %s",
    ),
    (
        """INSERT INTO stem_revocations (namespace, task_id, version, issued_at, terminate)
            VALUES (%s, 'marker', 0, clock_timestamp(), false)""",
        "DELETE FROM stem_revocations WHERE namespace = %s",
    ),
    (
        """INSERT INTO stem_control_records (namespace, place, key, version, stored_us, body)
            VALUES (%s, 'marker', '', 0, 0, '{}')""",
        "DELETE FROM stem_control_records WHERE namespace = %s",
    ),
    (
        "INSERT INTO stem_control_floors (namespace, version) VALUES (%s, 0)",
        "DELETE FROM stem_control_floors WHERE namespace = %s",
    ),
)


def _following(namespace: str, rows: Sequence[tuple[object, int]]) -> tuple[str, int] | None:
    """Where the page begins that comes after these rows."""
    return None if len(rows) < PAGE else (namespace, rows[-1][1])


class PostgresRevokeStore(RecordKeepingStore):
    """Revocations in a database, for any number of hosts. Times are by the database's clock.

    Memory: one page of rows. ``load`` and ``since`` read page after page by version instead of through one cursor, so
    that no transaction stays open while a caller consumes a stream slowly.
    """

    def __init__(
        self, url: str, *, name: str = "URL", tls: TlsSettings | None = None, patience: float | None = None
    ) -> None:
        self._database = PostgresDatabase(
            url, schema=SCHEMA, name=name, tls=tls, purpose="revoke store", patience=patience
        )
        self._tells_identity = True
        self.url = self._database.url
        self._kept = postgres_records.PostgresRecords(self._database, self.quarantine, _LOCK_NAMESPACE)

    def change(self, namespace: str, change: Change) -> Changed:
        change = checked(change)
        if change.is_empty:
            return Changed()

        def operation(session: PostgresSession) -> Changed:
            ((counter, now),) = session.rows(_LOCK_NAMESPACE, (namespace,))
            highest = sane_version(counter, session.rows(_HIGHEST, (namespace,))[0][0])
            held = self._held(session, namespace, [removal.task_id for removal in change.removals])
            versions = postgres_records.versions(session, namespace, named(change))
            moment = now.astimezone(timezone.utc)
            done = changed(change, held, versions, namespace=namespace, highest=highest, now=moment)
            # Most tasks that are revoked were not before, and to look for each costs as much as to add it. So the revocations of
            # tasks that have none are added, and only the others are read and merged; the lock keeps other clients from both.
            if there := postgres_rows.add(session, done.revocations):
                held |= self._held(session, namespace, sorted(there))
                done = changed(change, held, versions, namespace=namespace, highest=highest, now=moment)
                postgres_rows.replace(session, [record for record in done.revocations if record.task_id in there])
            postgres_rows.replace(session, done.ended)
            postgres_records.write(session, namespace, done.records, change.forgotten)
            if done.version:
                session.execute(
                    "UPDATE stem_revocation_versions SET version = %s WHERE namespace = %s", (done.version, namespace)
                )
            return done

        # To save twice when the answer to COMMIT was lost gives the same records under newer versions: harmless. A change
        # that compares would find its own work, and call it a conflict.
        compares = bool(change.removals or named(change))
        return self._database.write(operation, repeat=not compares)

    def since(self, namespace: str, version: int) -> Iterator[Revocation]:
        return chain.from_iterable(self.pages(namespace, version))

    def load(self, namespace: str) -> Iterator[Revocation]:
        return chain.from_iterable(self.pages(namespace))

    def pages(self, namespace: str, version: int | None = None) -> Iterator[Sequence[Revocation]]:
        condition, after = "", version
        if version is None:
            condition = "AND (expires_at IS NULL OR expires_at > clock_timestamp())"
        if after is None or after <= 0:
            self.quarantine.forget([namespace])
            after = BEFORE_ALL
        # A table that has just been filled has no statistics, and the planner would sort all that is left for each page.
        # Both statements are one transaction, since they travel as one; the setting ends with it.
        statement = f"""SET LOCAL enable_sort = off;
            SELECT {_READ} FROM stem_revocations WHERE namespace = %s AND version > %s {condition}
            ORDER BY version LIMIT {PAGE}"""
        for rows in pages_from(
            (namespace, after), partial(self._database.rows, statement), partial(_following, namespace)
        ):
            if page := self._page(namespace, rows):
                yield page

    def get(self, namespace: str, task_id: str) -> Revocation | None:
        rows = self._database.rows(
            f"""SELECT {_READ} FROM stem_revocations WHERE namespace = %s AND task_id = %s
                    AND (expires_at IS NULL OR expires_at > clock_timestamp())""",
            (namespace, task_id),
        )
        return readable(namespace, rows[0], self.quarantine) if rows else None

    def glance(self, namespace: str, task_ids: Sequence[str]) -> Glance:
        identity = _IDENTITY if self._tells_identity else "''"
        wanted = f"SELECT {_READ} FROM stem_revocations WHERE namespace = %s AND task_id = ANY(%s)"
        statement = f"""SELECT {identity}, ({_COUNTER}), ({_HIGHEST}), found.* FROM (VALUES (1)) AS one
            LEFT JOIN ({wanted}) AS found ON true"""
        given = (namespace, namespace, namespace, list(task_ids))
        try:
            rows = self._database.rows(statement, given)
        except StoreUnavailable:
            raise
        except StoreError:
            if not self._tells_identity:
                raise
            self._tells_identity = False  # this user may not ask, or this server is a PostgreSQL only by its protocol
            return self.glance(namespace, task_ids)
        held = [readable(namespace, row[3:], self.quarantine) for row in rows if row[3] is not None]
        found = {record.task_id: record for record in held if record is not None}
        return Glance(rows[0][0], sane_version(*rows[0][1:3]), found)

    def revision(self, namespace: str) -> int:
        statement = f"SELECT ({_COUNTER}), ({_HIGHEST})"
        return sane_version(*self._database.rows(statement, (namespace, namespace))[0])

    def prune(self, namespace: str) -> int:
        return self.prune_after(namespace, 0.0)

    def prune_after(self, namespace: str, grace: float) -> int:
        expired = "namespace = %s AND expires_at <= clock_timestamp() - make_interval(secs => %s)"
        found = f"SELECT 1 FROM stem_revocations WHERE {expired} LIMIT 1"
        # The condition stands in the DELETE itself as well: it is judged again on a row that changed meanwhile (G5).
        delete = f"""DELETE FROM stem_revocations WHERE {expired} AND task_id IN
            (SELECT task_id FROM stem_revocations WHERE {expired} LIMIT {PAGE})"""

        def operation(session: PostgresSession) -> int:
            session.rows(_LOCK_NAMESPACE, (namespace,))  # in the same order as save does, or the two could deadlock
            return session.execute(delete, (namespace, grace) * 2)

        pruned = 0
        while self._database.rows(found, (namespace, grace)):
            pruned += self._database.write(operation)
        return pruned

    def problems(self, namespace: str) -> list[str]:
        statement = f"SELECT ({_COUNTER}), ({_HIGHEST})"
        counter, highest = self._database.rows(statement, (namespace, namespace))[0]
        if sane_version(counter, None) >= (highest or 0):
            return []
        return [f"stem_revocation_versions has {counter}, and the highest version in stem_revocations is {highest}"]

    def repair(self, namespace: str) -> list[str]:
        """See :meth:`RevokeStore.repair`. What can't be read goes to the table ``stem_revocations_set_aside``."""
        for _ in self.since(namespace, 0):
            pass
        ids = [found.task_id for found in self.quarantine.of(namespace) if found.task_id is not None]

        def operation(session: PostgresSession) -> list[str]:
            ((counter, _),) = session.rows(_LOCK_NAMESPACE, (namespace,))
            highest = sane_version(counter, session.rows(_HIGHEST, (namespace,))[0][0])
            done = []
            if highest != counter:
                change = "UPDATE stem_revocation_versions SET version = %s WHERE namespace = %s"
                session.execute(change, (highest, namespace))
                done.append(f"stem_revocation_versions had {counter}, and now {highest}")
            if ids:
                copy = "stem_revocations_set_aside"
                session.execute(f"CREATE TABLE IF NOT EXISTS {copy} (LIKE stem_revocations)")
                found = "stem_revocations WHERE namespace = %s AND task_id = ANY(%s)"
                session.execute(f"INSERT INTO {copy} SELECT * FROM {found}", (namespace, ids))
                session.execute(f"DELETE FROM {found}", (namespace, ids))
                done.append(f"{len(ids)} records that can't be read were moved to {copy}")
            return done

        return self._database.write(operation)

    def now(self) -> datetime:
        ((now,),) = self._database.rows("SELECT clock_timestamp()")
        moment: datetime = now.astimezone(timezone.utc)
        return moment

    def check(self, namespace: str) -> list[str]:
        marker = f"stem-health-{chance.token_hex(8)}"

        def written(session: PostgresSession) -> None:
            for add, remove in _MARKERS:
                session.execute(add, (marker,))
                session.execute(remove, (marker,))

        self._database.write(written)
        return self._database.read(partial(warnings, keeps="revocations"))

    def ping(self) -> None:
        self._database.rows("SELECT 1")

    def close(self) -> None:
        self._database.close()

    def _page(self, namespace: str, rows: Sequence[tuple[object, ...]]) -> Sequence[Revocation]:
        *columns, proofs = zip(*rows, strict=True) if rows else [()]
        if set(proofs) == {None} and (page := page_of(namespace, columns)) is not None:
            return page
        found = (readable(namespace, row, self.quarantine) for row in rows)
        return [record for record in found if record is not None]

    def _held(self, session: PostgresSession, namespace: str, task_ids: Sequence[str]) -> dict[str, Revocation]:
        statement = f"SELECT {_READ} FROM stem_revocations WHERE namespace = %s AND task_id = ANY(%s::text[])"
        held: dict[str, Revocation] = {}
        for page in pages(task_ids):
            found = (
                readable(namespace, row, self.quarantine)
                for row in session.rows(statement, (namespace, array_text(page)))
            )
            held |= {record.task_id: record for record in found if record is not None}
        return held
