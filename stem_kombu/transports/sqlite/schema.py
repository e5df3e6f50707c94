"""The tables of the embedded broker.

All names begin with ``stem_broker_`` and the version is a row of our own, so that the file can be shared with the
SQLite stores (``user_version`` is left alone).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from stem_kombu.transports.sqlite.errors import EmbeddedBrokerCorrupt

VERSION = 1

# owner: one open connection that consumes. While it lives, it holds the byte ``id`` of the lock file; ``lease_until``
#     is the lease on everything that it holds, so that renewing is one row whatever the number of messages in flight.
# message: ready while owner_id and due are null. ``rank`` is 9 - priority. ``tries`` counts deliveries and fences late
#     acknowledgements, for which ids must never be used again: hence AUTOINCREMENT. The body is last, as SQLite reads a
#     row from its beginning.
_TABLES = """
CREATE TABLE IF NOT EXISTS stem_broker_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stem_broker_exchange (
    name TEXT PRIMARY KEY, type TEXT NOT NULL, durable INTEGER NOT NULL, auto_delete INTEGER NOT NULL,
    arguments TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stem_broker_owner (
    id INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, started_at REAL NOT NULL, lease_until REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS stem_broker_queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    durable INTEGER NOT NULL, auto_delete INTEGER NOT NULL, exclusive INTEGER NOT NULL, exclusive_owner INTEGER,
    arguments TEXT NOT NULL, expires REAL, message_ttl REAL, touched_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS stem_broker_binding (
    exchange TEXT NOT NULL, routing_key TEXT NOT NULL, queue_id INTEGER NOT NULL,
    PRIMARY KEY (exchange, routing_key, queue_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS stem_broker_binding_queue ON stem_broker_binding (queue_id);
CREATE TABLE IF NOT EXISTS stem_broker_consumer (
    queue_id INTEGER NOT NULL, owner_id INTEGER NOT NULL, channel INTEGER NOT NULL, tag TEXT NOT NULL,
    PRIMARY KEY (queue_id, owner_id, channel, tag)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stem_broker_message (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue_id INTEGER NOT NULL, rank INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0, owner_id INTEGER, lease_until REAL, due REAL, expires_at REAL,
    envelope TEXT NOT NULL, body
);
CREATE INDEX IF NOT EXISTS stem_broker_message_ready ON stem_broker_message (queue_id, rank, id)
    WHERE owner_id IS NULL AND due IS NULL;
CREATE INDEX IF NOT EXISTS stem_broker_message_held ON stem_broker_message (owner_id) WHERE owner_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS stem_broker_message_due ON stem_broker_message (due) WHERE due IS NOT NULL;
CREATE INDEX IF NOT EXISTS stem_broker_message_expires ON stem_broker_message (expires_at) WHERE expires_at IS NOT NULL;
INSERT OR IGNORE INTO stem_broker_exchange VALUES
    ('amq.direct', 'direct', 1, 0, '{}'), ('amq.topic', 'topic', 1, 0, '{}'), ('amq.fanout', 'fanout', 1, 0, '{}');
"""


def is_current(sql: sqlite3.Connection, path: Path) -> bool:
    """Whether the tables are there. Raises :class:`EmbeddedBrokerCorrupt` when a newer Stem made them."""
    if not sql.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'stem_broker_meta'").fetchone():
        return False
    row = sql.execute("SELECT value FROM stem_broker_meta WHERE key = 'schema_version'").fetchone()
    if row is None:
        return False
    if row[0] != str(VERSION):
        raise EmbeddedBrokerCorrupt(
            f"embedded broker {path}: its schema is version {row[0]}, this stem-kombu knows version {VERSION}",
            hint="upgrade stem-kombu, or name another file",
        )
    return True


def create(sql: sqlite3.Connection) -> None:
    """Make what is missing, in the caller's write transaction, so that any number of processes may start at once."""
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            sql.execute(statement)
    sql.execute("INSERT OR IGNORE INTO stem_broker_meta VALUES ('schema_version', ?)", (str(VERSION),))
