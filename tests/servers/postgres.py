"""A private PostgreSQL."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2

from tests.servers.process import Reaper, ServerMissing, ServerProcess, find_program

_USER, _PASSWORD = "stem", "stem-secret"


@contextmanager
def session(url: str) -> Iterator[Any]:
    """A cursor of another application there, or at a pool, in autocommit mode."""
    connection = psycopg2.connect(url, connect_timeout=5)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


class PostgresServer(ServerProcess):
    """Clients give a password (a wrong one is refused). ``fsync`` is off unless asked for.

    A killed process loses nothing without it, only a machine that loses its power does.
    """

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # "fast": ends the sessions instead of waiting for them

    def __init__(self, reaper: Reaper, *, fsync: bool = False, options: list[str] | None = None) -> None:
        self._initdb, self._postgres = _program("initdb"), _program("postgres")
        self._prefix = unprivileged()
        super().__init__(reaper)
        self._fsync = fsync
        self._options = options or []
        self._database = itertools.count(1)
        self._data = self.directory / "data"

    @property
    def url(self) -> str:
        """The database ``postgres``. Tests that should not meet use :meth:`new_database`."""
        return self._url("postgres")

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test_{next(self._database)}"
        with session(self.url) as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        return self._url(name)

    def drop_database(self, url: str) -> None:
        """Drop it and end the connections to it."""
        with session(self.url) as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def prepare(self) -> None:
        if self._data.exists():
            return
        secret = self.directory / "password"
        secret.write_text(_PASSWORD)
        if self._prefix:
            for path in (self.directory, secret):
                shutil.chown(path, "postgres")
        made = subprocess.run(
            [
                *self._prefix,
                *(self._initdb, "--pgdata", str(self._data), "--username", _USER, "--pwfile", str(secret)),
                *(
                    "--auth-local",
                    "trust",
                    "--auth-host",
                    "scram-sha-256",
                    "--encoding",
                    "UTF8",
                    "--no-locale",
                    "--no-sync",
                ),
            ],
            cwd=self.directory,
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "on" if self._fsync else "off",
            "synchronous_commit": "on",
            "full_page_writes": "on" if self._fsync else "off",
            "shared_buffers": "32MB",
            "max_connections": 200,
            "autovacuum": "off",  # its workers would hold the databases that tests drop
            "log_min_messages": "warning",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [*self._prefix, self._postgres, "-D", str(self._data), *options, *self._options]

    def answers(self) -> bool:
        try:
            with session(self.url) as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True

    def _url(self, database: str) -> str:
        return f"postgresql://{_USER}:{_PASSWORD}@{self.host}:{self.port}/{database}"


def _program(name: str) -> str:
    found = find_program(name, f"/usr/lib/postgresql/*/bin/{name}", f"/usr/pgsql-*/bin/{name}")
    if found is None:
        raise ServerMissing(
            f"PostgreSQL's {name} is neither in PATH nor in /usr/lib/postgresql/*/bin "
            "(Debian and Ubuntu: apt-get install postgresql)"
        )
    # Debian's postgres is also linked into other folders; it finds its own files by the real one.
    return str(Path(found).resolve())


def unprivileged() -> list[str]:
    """What precedes a command so that it does not run as root, which PostgreSQL refuses; nothing for other users."""
    if os.geteuid() != 0:
        return []
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        raise ServerMissing("PostgreSQL refuses to run as root, and there is no user 'postgres' to run it as") from None
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ServerMissing("PostgreSQL refuses to run as root, and setpriv (package util-linux) is not there")
    return [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]
