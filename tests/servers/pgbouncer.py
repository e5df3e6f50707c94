"""A private PgBouncer in front of the private PostgreSQL."""

from __future__ import annotations

import shutil
from urllib.parse import urlsplit

import psycopg2

from tests.servers.postgres import PostgresServer, session, unprivileged
from tests.servers.process import Reaper, ServerMissing, ServerProcess, find_program


class PgBouncerServer(ServerProcess):
    """Transaction pooling over two server connections a database, so that clients really share them.

    Clients are trusted here; to the server it gives the password of :class:`PostgresServer`.
    """

    name = "PgBouncer"

    def __init__(self, reaper: Reaper, postgres: PostgresServer) -> None:
        program = find_program("pgbouncer", "/usr/sbin/pgbouncer")
        if program is None:
            raise ServerMissing("pgbouncer is not in PATH (Debian and Ubuntu: apt-get install pgbouncer)")
        self._prefix = unprivileged()
        super().__init__(reaper)
        self._program = program
        self._postgres = postgres

    @property
    def url(self) -> str:
        """The database ``postgres`` through the pool."""
        return self.through("postgres")

    def through(self, database: str) -> str:
        """The URL of a database's pool."""
        return f"postgresql://{urlsplit(self._postgres.url).username}@{self.host}:{self.port}/{database}"

    def prepare(self) -> None:
        server = urlsplit(self._postgres.url)
        (self.directory / "users.txt").write_text(f'"{server.username}" "{server.password}"\n')
        settings = {
            "listen_addr": self.host,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "auth_file": self.directory / "users.txt",
            "pool_mode": "transaction",
            "default_pool_size": 2,
            "server_reset_query_always": 0,
        }
        lines = [
            "[databases]",
            f"* = host={server.hostname} port={server.port} user={server.username} password={server.password}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        path = self.directory / "pgbouncer.ini"
        path.write_text("\n".join(lines) + "\n")
        if self._prefix:
            for owned in (self.directory, path, self.directory / "users.txt"):
                shutil.chown(owned, "postgres")

    def command(self) -> list[str]:
        return [*self._prefix, self._program, str(self.directory / "pgbouncer.ini")]

    def answers(self) -> bool:
        try:
            with session(self.url) as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True
