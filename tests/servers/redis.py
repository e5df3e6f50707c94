"""A private Redis."""

from __future__ import annotations

import itertools

from tests.servers.process import Reaper, ServerMissing, ServerProcess, conversation, find_program


class RedisServer(ServerProcess):
    """What was acknowledged survives :meth:`restart` and :meth:`kill`: each write is in the log file before its answer.

    ``options`` are redis-server's own (``["--maxclients", "5"]``). With a ``password`` the URLs carry it.
    """

    name = "Redis"
    databases = 1024

    def __init__(self, reaper: Reaper, *, options: list[str] | None = None, password: str | None = None) -> None:
        program = find_program("redis-server")
        if program is None:
            raise ServerMissing("redis-server is not in PATH (Debian and Ubuntu: apt-get install redis-server)")
        super().__init__(reaper)
        self._program = program
        self._options = [*(options or []), *(["--requirepass", password] if password else [])]
        self._password = password
        self._database = itertools.count()

    @property
    def url(self) -> str:
        """Database 0. Tests that should not meet use :meth:`new_database`."""
        return self._url(0)

    def new_database(self) -> str:
        """The URL of an empty database that no test used before (or, after a thousand, one that was emptied)."""
        number = next(self._database) % (self.databases - 1) + 1
        self.say("SELECT", str(number), then=["FLUSHDB"])
        return self._url(number)

    def say(self, *command: str, then: list[str] | None = None) -> None:
        """Have one command, and another one on the same connection, carried out."""
        commands = [["AUTH", self._password]] if self._password else []
        commands += [list(command), *([then] if then else [])]
        answer = conversation(self.host, self.port, b"".join(map(_encoded, commands)))
        if b"-ERR" in answer:
            raise RuntimeError(f"Redis: {answer!r} to {command}")

    def prepare(self) -> None:
        """It makes its files itself."""

    def command(self) -> list[str]:
        return [
            self._program,
            *("--port", str(self.port), "--bind", self.host, "--dir", str(self.directory)),
            *("--databases", str(self.databases), "--daemonize", "no"),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0"),
            *self._options,
        ]

    def answers(self) -> bool:
        answer = conversation(self.host, self.port, _encoded(["PING"]))
        return answer.startswith((b"+PONG", b"-NOAUTH"))  # -LOADING: not yet

    def _url(self, database: int) -> str:
        user = f":{self._password}@" if self._password else ""
        return f"redis://{user}{self.host}:{self.port}/{database}"


def _encoded(words: list[str]) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
