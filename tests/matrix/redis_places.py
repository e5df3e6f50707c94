"""Redis in the matrix: of several versions, by several ways, and one that is promoted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from stem_kombu.testing.ports import free_port
from tests.faults.fleet import Servers
from tests.matrix.place import LEASE, Place
from tests.servers.papers import make_papers
from tests.servers.process import Reaper
from tests.servers.redis import RedisServer, SentinelServer, brought
from tests.waiting import eventually

_OPTIONS = {"visibility_timeout": LEASE, "unacked_restore_interval": 0.5}


def keys_of_redis(url: str) -> Counter[str]:
    import redis

    with closing(redis.Redis.from_url(url)) as client:
        return Counter(key.decode(errors="replace") for key in client.scan_iter(count=1000))


@contextmanager
def redis_found(servers: Servers, folder: Path) -> Iterator[Place]:
    yield _place_at(servers.new_url("redis", folder))


@contextmanager
def redis_brought(server: str, servers: Servers, folder: Path) -> Iterator[Place]:
    """By the program of a package: ``server`` is a name of :data:`tests.servers.redis.BROUGHT`."""
    with _one_more_redis(program=brought(server)) as redis:
        yield _place_at(redis.url)


@contextmanager
def redis_by_socket(servers: Servers, folder: Path) -> Iterator[Place]:
    socket = folder / "redis.sock"
    with _one_more_redis(options=["--unixsocket", str(socket)]) as server:
        yield replace(_place_at(server.url), broker=f"redis+socket://{socket}")


@contextmanager
def redis_by_tls(servers: Servers, folder: Path) -> Iterator[Place]:
    """Broker and store by TLS, with a certificate of the client's own."""
    papers, port = make_papers(folder), free_port()
    files = {"cert": papers.server.cert, "key": papers.server.key, "ca-cert": papers.ca}
    options = [word for name, path in files.items() for word in (f"--tls-{name}-file", str(path))]
    with _one_more_redis(options=[*options, "--tls-auth-clients", "yes", "--tls-port", str(port)]) as server:
        url = f"rediss://localhost:{port}/0"
        yield replace(_place_at(server.url), broker=url, store=url, environment=papers.variables())


@contextmanager
def sentinel(servers: Servers, folder: Path) -> Iterator[Place]:
    quickly = ["--repl-diskless-sync-delay", "0"]
    with (
        _one_more_redis(options=quickly) as master,
        _one_more_redis(options=[*quickly, "--replicaof", master.host, str(master.port)]) as replica,
    ):
        reaper = Reaper()
        watchers = [SentinelServer(reaper, master, quorum=1) for _ in range(2)]
        try:
            for one in watchers:
                one.start()
            eventually(lambda: all(one.knows_replicas_and_others(1, 1) for one in watchers), 60)
            hosts = ",".join(f"{one.host}:{one.port}" for one in watchers)
            url = f"sentinel://{hosts}/0?master_name={SentinelServer.master}"

            def left() -> Counter[str]:
                return keys_of_redis(master.url if master.running else replica.url)

            yield replace(_place_at(master.url), broker=url, store=url, left=left, fail_over=master.kill)
        finally:
            for one in watchers:
                one.close()
            reaper.close()


@contextmanager
def _one_more_redis(**options: Any) -> Iterator[RedisServer]:
    reaper = Reaper()
    server = RedisServer(reaper, **options)
    try:
        server.start()
        yield server
    finally:
        server.close()
        reaper.close()


def _place_at(url: str) -> Place:
    """Broker and store of one Redis."""
    return Place(url, url, lambda: keys_of_redis(url), dict(_OPTIONS), about=_version_of(url))


def _version_of(url: str) -> str:
    import redis

    with closing(redis.Redis.from_url(url)) as client:
        found = client.info("server")
    valkey = found.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {found['redis_version']}"
