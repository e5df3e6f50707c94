"""A broker with what the command line needs for it, and what lies at it: of one column of the matrix."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers.process import ServerMissing

#: Seconds for which a killed worker's messages stay away, where there is such a time; short enough to be waited for.
LEASE = 4.0
_ENTRY = "roster entry of "


@dataclass(frozen=True)
class Place:
    """``left()`` counts what lies at the broker and at its store, by name, but for tasks and their records."""

    broker: str
    store: str
    left: Callable[[], Counter[str]]
    options: dict[str, Any] = field(default_factory=dict)
    #: Whether a worker must accept that a killed worker's tasks are lost.
    loses: bool = False
    about: str = ""
    #: Variables that the place needs beside its URLs.
    environment: dict[str, str] = field(default_factory=dict)
    #: Kills the server that is used, where another one takes over.
    fail_over: Callable[[], None] | None = None
    #: Starts that server again, where commands need it.
    bring_back: Callable[[], None] | None = None

    @property
    def variables(self) -> dict[str, str]:
        return {
            "STEM_BROKER_URL": self.broker,
            "STEM_BROKER_TRANSPORT_OPTIONS": json.dumps(self.options),
            "STEM_RESULT_BACKEND_URL": self.store,
            "STEM_REVOKE_STORE_URL": self.store,
            "STEM_HEARTBEAT_INTERVAL": "1s",
            **self.environment,
        }


def rows_of_sqlite(path: Path) -> Counter[str]:
    """How many rows each table has."""
    if not path.exists():
        return Counter()
    with closing(sqlite3.connect(path, timeout=30)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        alive = "expires_us > CAST(strftime('%s', 'now') AS INTEGER) * 1000000"
        counts = {one: database.execute(_counting(one, alive)).fetchone()[0] for one in tables if _is_counted(one)}
        if "stem_roster" in tables:
            counts |= {f"{_ENTRY}{worker}": 1 for (worker,) in database.execute("SELECT worker FROM stem_roster")}
        return Counter({f"rows of {path.name}, {table}": count for table, count in counts.items() if count})


def rows_of_postgres(url: str) -> Counter[str]:
    import psycopg2

    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        found: Counter[str] = Counter()
        tables = cursor.fetchall()
        for (table,) in tables:
            if _is_counted(table):
                cursor.execute(_counting(table, "expires_at > now()"))
                found[f"rows of {table}"] = cursor.fetchone()[0]
        if ("stem_roster",) in tables:
            cursor.execute("SELECT worker FROM stem_roster")
            found.update(f"{_ENTRY}{worker}" for (worker,) in cursor.fetchall())
        return found


def _is_counted(table: str) -> bool:
    """Not what a database keeps of its own, and not the records of tasks. The roster's entries are counted by name."""
    return not table.startswith("sqlite_") and table not in ("stem_tasks", "stem_roster")


def _counting(table: str, now: str) -> str:
    """What counts a table's rows. Control messages count until they expire: the next worker or command deletes them."""
    return f'SELECT count(*) FROM "{table}"' + (f" WHERE {now}" if table == "stem_control_messages" else "")


def keys_of_redis(url: str) -> Counter[str]:
    import redis

    with closing(redis.Redis.from_url(url)) as client:
        return Counter(key.decode(errors="replace") for key in client.scan_iter(count=1000))


def need(module: str) -> None:
    """Raises :class:`~tests.servers.process.ServerMissing` where that Python package is not installed."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ServerMissing(f"the Python package {module} is not installed")
