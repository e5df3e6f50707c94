"""Whether a Redis server can keep what Stem stores there: a marker is written and removed, and its settings are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from stem_kombu import chance, timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.drivers.conditions import nearly_full, skew
from stem_kombu.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """What a server says of itself; ``None`` where this user may not ask. ``now`` is its clock, read between ``before`` and
    ``after`` by this machine's."""

    info: Mapping[str, Any] | None
    save: str | None
    maxclients: int | None
    now: datetime
    before: datetime
    after: datetime


def look(client: Any, marker: str, where: str) -> RedisFacts:
    """Write and remove a key that begins with ``marker``, and read the server's facts; ``where`` names it in an error.

    ``client`` is a ``redis.Redis``. Raises what redis-py raises when the server does not take the marker, and
    :class:`ConfigurationError` for a Redis Cluster.
    """
    info = _info(client)
    _refuse_cluster(info, where)
    key = f"{marker}{chance.token_hex(8)}"
    client.set(key, b"", px=round(1000 * timeouts.REDIS_MARKER_LIFE))
    client.delete(key)
    before = SYSTEM.utcnow()
    seconds, micros = client.time()
    after = SYSTEM.utcnow()
    maxclients = _setting(client, "maxclients")
    return RedisFacts(
        info,
        _setting(client, "save"),
        int(maxclients) if maxclients and maxclients.isdigit() else None,
        datetime.fromtimestamp(int(seconds), timezone.utc) + timedelta(microseconds=int(micros)),
        before,
        after,
    )


def refuse_cluster(client: object, where: str) -> None:
    """Raise :class:`ConfigurationError` where ``client`` speaks to a node of a Redis Cluster, as far as this user may ask.

    Raises what redis-py raises when it is away."""
    _refuse_cluster(_info(client, "cluster"), where)


def _info(client: Any, *sections: str) -> Mapping[str, object] | None:
    from redis.exceptions import ResponseError

    try:
        found: Mapping[str, object] = client.info(*sections)
    except ResponseError:  # NOPERM, or a service that has renamed the command
        return None
    return found


def _refuse_cluster(info: Mapping[str, object] | None, where: str) -> None:
    if info is not None and info.get("cluster_enabled"):
        raise ConfigurationError(
            f"{where}: the server is a node of a Redis Cluster, which Kombu and Stem can't use",
            hint="give a plain Redis, or one behind Sentinel",
        )


def warnings(facts: RedisFacts, keeps: str, *, expiring: bool = False) -> list[str]:
    """A sentence for each fact that threatens what the server ``keeps`` (say, ``revocations``); ``expiring``: its keys have a
    lifetime, so that policies for volatile keys evict them as well."""
    found = skew(facts.now, facts.before, facts.after)
    info = facts.info
    if info is None:
        return [*found, "this user may not ask for INFO, so persistence and memory are not checked (right: +info)"]
    if not info.get("aof_enabled") and facts.save == "":
        found.append(
            f'persistence is off (appendonly no, save ""): a restart of the server loses all {keeps}; '
            "set appendonly yes"
        )
    for name, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if info.get(name, "ok") != "ok":
            found.append(f"its last write of the {what} failed: look at its disk and its log")
    policy = str(info.get("maxmemory_policy", ""))
    if policy.startswith("allkeys") or (expiring and policy.startswith("volatile")):
        found.append(
            f"maxmemory-policy is {policy}: the server evicts {keeps} when it is short of memory; set noeviction"
        )
    found += nearly_full(
        float(info.get("used_memory", 0)),
        float(info.get("maxmemory", 0)),
        "bytes of maxmemory",
        "raise maxmemory before it refuses writes",
    )
    limit = facts.maxclients if facts.maxclients is not None else info.get("maxclients", 0)
    found += nearly_full(
        float(info.get("connected_clients", 0)), float(limit), "connections", "raise maxclients, or close idle clients"
    )
    return found


def _setting(client: Any, name: str) -> str | None:
    from redis.exceptions import ResponseError

    try:
        answer = client.config_get(name)
    except ResponseError:  # NOPERM, or a service that has renamed the command
        return None
    return {_text(key): _text(text) for key, text in dict(answer).items()}.get(name)


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
