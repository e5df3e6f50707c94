"""What a process and a broker hold at one moment."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis

from tests.servers.rabbitmq import RabbitServer


@dataclass(frozen=True)
class Footprint:
    """A process, and its descendants together. Memory in bytes."""

    rss: int
    descriptors: int
    threads: int
    processes: int
    rss_of_children: int
    descriptors_of_children: int

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


def footprint(pid: int) -> Footprint:
    """What that process holds now; Linux."""
    below = _descendants(pid)
    status = _status(pid)
    return Footprint(
        rss=status["VmRSS"] * 1024,
        descriptors=_descriptors(pid),
        threads=status["Threads"],
        processes=len(below),
        rss_of_children=sum(_of_child(child, lambda pid: _status(pid).get("VmRSS", 0)) for child in below) * 1024,
        descriptors_of_children=sum(_of_child(child, _descriptors) for child in below),
    )


def _of_child(pid: int, measured: Callable[[int], int]) -> int:
    """0 for a child that has ended since it was listed."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return measured(pid)
    return 0


def _status(pid: int) -> dict[str, int]:
    wanted = ("VmRSS", "Threads")
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if name in wanted}


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - a count is all that is wanted


def _descendants(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end before its file is opened, and before it is read.
        with suppress(FileNotFoundError, ProcessLookupError):
            children += map(int, (task / "children").read_text().split())
    return [*children, *(deeper for child in children for deeper in _descendants(child))]


def held_by(url: str, rabbitmq: RabbitServer | None = None) -> Mapping[str, Any]:
    """What the broker holds: queues with their lengths, keys with their sizes, rows by table."""
    if url.startswith("redis"):
        return _in_redis(url)
    if url.startswith("sqlite"):
        return _in_sqlite(Path(url.partition("://")[2]))
    assert rabbitmq is not None
    vhost = url.rpartition("/")[2]
    lengths = f'[amqqueue:get_name(Q) || Q <- rabbit_amqqueue:list(<<"{vhost}">>)]'
    # Of this virtual host: others are of tests that have just ended, or run beside this one.
    places = "[proplists:get_value(vhost, C) || C <- rabbit_networking:connection_info_all([vhost])]"
    connections = rabbitmq.evaluate(f'length([V || V <- {places}, V =:= <<"{vhost}">>])')
    bindings = rabbitmq.evaluate(f'length(rabbit_binding:list(<<"{vhost}">>))')
    queues = sorted(rabbitmq.queues(url))
    assert len(queues) <= rabbitmq.evaluate(lengths).count("resource") + 1
    return {"queues": queues, "bindings": int(bindings), "connections": int(connections)}


#: A living worker's while it sweeps; and Kombu's list of exchanges whose bindings it sweeps: one entry an exchange, however
#: many queues were bound to it, taken off by whoever consumes some minutes after the last one went.
_FLEETING = (b"stem-unacked-mutex", b"_kombu.binding_deadlines")
#: Each revoke leaves its entry in the audit, by design: it is bounded by STEM_AUDIT_KEEP and by number.
_AUDIT = (b":control:records:audit", b":control:places", b":control:floor")
_SIZES = {"list": "llen", "hash": "hlen", "set": "scard", "zset": "zcard"}


def _in_redis(url: str) -> dict[str, Any]:
    with redis.Redis.from_url(url) as client:
        held: dict[str, Any] = {}
        for key in sorted(client.scan_iter(count=1000)):
            if key in _FLEETING or any(part in key for part in _AUDIT):
                continue
            kind = client.type(key).decode()
            held[key.decode()] = getattr(client, _SIZES[kind])(key) if kind in _SIZES else kind
        number = int(url.rpartition("/")[2])
        clients = [one for one in client.client_list() if int(one["db"]) == number]
        return {"keys": held, "connections": len(clients) - 1}


def _in_sqlite(path: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(path, timeout=10)) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'stem_broker_%'")
        names = [name for (name,) in tables.fetchall()]
        return {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}
