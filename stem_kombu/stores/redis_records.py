"""Control records in Redis. Keys of a place, in the slot of the namespace:

1. ``…:records:PLACE``           hash, key to record as JSON; its body is JSON text
2. ``…:records:PLACE:versions``  sorted set, key by version
3. ``…:records:PLACE:expiry``    sorted set, key by expiry, of those that expire

and for all of them the set ``…:places`` and ``…:floor``. The hash holds the records; the others are indexes, and are made anew
where they do not fit it. They are written by :data:`stem_kombu.stores.redis_change.CHANGE`, together with revocations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from stem_kombu.clock import epoch_us
from stem_kombu.drivers.redis import RedisDatabase, RedisScript
from stem_kombu.errors import StoreCorrupt, StoreError
from stem_kombu.fields import json_value, mapping
from stem_kombu.stores.quarantine import Quarantine
from stem_kombu.stores.records import ControlRecord

_PAGE = 1000

#: KEYS: of each place its first two keys. ARGV: where to begin as ZRANGEBYSCORE's minimum, limit. Answers of the records with
#: the lowest versions: number of the place, key, version, record …
_READ = RedisScript(
    """
local found = {}
for place = 1, #KEYS / 2 do
  local held, versions = KEYS[2 * place - 1], KEYS[2 * place]
  if redis.call('HLEN', held) ~= redis.pcall('ZCARD', versions) then return redis.error_reply('REBUILD') end
  local page = redis.call('ZRANGEBYSCORE', versions, ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
  for at = 1, #page, 2 do found[#found + 1] = {place, page[at], tonumber(page[at + 1])} end
end
table.sort(found, function(one, other) return one[3] < other[3] end)
local answer = {}
for at = 1, math.min(#found, ARGV[2]) do
  local place, key, version = unpack(found[at])
  answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = place, key, string.format('%.0f', version)
  answer[#answer + 1] = redis.call('HGET', KEYS[2 * place - 1], key) or ''
end
return answer
"""
)

#: KEYS: the first two of a place. ARGV: limit. Answers key, record … with the highest versions, newest first.
_NEWEST = RedisScript(
    """
if redis.call('HLEN', KEYS[1]) ~= redis.pcall('ZCARD', KEYS[2]) then return redis.error_reply('REBUILD') end
local answer = {}
for at, key in ipairs(redis.call('ZREVRANGE', KEYS[2], 0, ARGV[1] - 1)) do
  answer[2 * at - 1], answer[2 * at] = key, redis.call('HGET', KEYS[1], key) or ''
end
return answer
"""
)

#: KEYS: the three of a place, and the floor. ARGV: limit, until when. Answers how many it looked at, and how many it deleted:
#: an entry of the index whose record does not expire then is only an entry.
_PRUNE = RedisScript(
    """
local keys = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[2], 'LIMIT', 0, ARGV[1])
local floor, pruned = tonumber(redis.call('GET', KEYS[4]) or '0') or 0, 0
for _, key in ipairs(keys) do
  local found = redis.call('HGET', KEYS[1], key)
  local version, expires = string.match(found or '', '^{"version":(%d+),"stored_us":%-?%d+,"expires_us":(%-?%d+),')
  if version and tonumber(expires) <= tonumber(ARGV[2]) then
    floor, pruned = math.max(floor, tonumber(version)), pruned + 1
    redis.call('HDEL', KEYS[1], key)
    redis.call('ZREM', KEYS[2], key)
  end
  redis.call('ZREM', KEYS[3], key)
end
if pruned > 0 then redis.call('SET', KEYS[4], string.format('%.0f', floor)) end
return {#keys, pruned}
"""
)

#: KEYS: the three of a place. ARGV: keys of a page of its hash. Puts them into the indexes; one that can't be read is numbered
#: 0, before all others.
_INDEX = RedisScript(
    """
for at = 2, 3 do
  local kind = redis.call('TYPE', KEYS[at]).ok
  if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', KEYS[at]) end
end
for _, key in ipairs(ARGV) do
  local found = redis.call('HGET', KEYS[1], key)
  if found then
    redis.call('ZADD', KEYS[2], string.match(found, '^{"version":(%d+),') or '0', key)
    local expires = string.match(found, '^{"version":%d+,"stored_us":%-?%d+,"expires_us":(%-?%d+),')
    if expires then redis.call('ZADD', KEYS[3], expires, key) else redis.call('ZREM', KEYS[3], key) end
  end
end
"""
)

#: KEYS: the three of a place. ARGV: keys of a page of an index. Takes those out of the indexes that have no record.
_SWEEP = RedisScript(
    """
for _, key in ipairs(ARGV) do
  if redis.call('HEXISTS', KEYS[1], key) == 0 then
    redis.call('ZREM', KEYS[2], key)
    redis.call('ZREM', KEYS[3], key)
  end
end
"""
)


class RedisRecords:
    """The readers of one Redis; what can't be read is set aside (G37)."""

    def __init__(self, database: RedisDatabase, quarantine: Quarantine) -> None:
        self._database = database
        self._quarantine = quarantine

    def since(self, namespace: str, version: int, places: Collection[str] | None) -> Iterator[ControlRecord]:
        """See :meth:`stem_kombu.stores.base.RevokeStore.records_since`."""
        names = self._places(namespace) if places is None else sorted(places)
        keys = [key for place in names for key in keys_of(namespace, place)[:2]]
        start = "-inf" if version <= 0 else f"({version}"
        while names:
            flat = self._evaluate(_READ, keys, [start, _PAGE], namespace, names)
            for number, key, found, text in zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True):
                start = f"({found.decode()}"
                if (record := self._readable(namespace, names[number - 1], key, text)) is not None:
                    yield record
            if len(flat) < 4 * _PAGE:
                return

    def newest(self, namespace: str, place: str, limit: int) -> list[ControlRecord]:
        """See :meth:`stem_kombu.stores.base.RevokeStore.newest_records`."""
        flat = self._evaluate(_NEWEST, keys_of(namespace, place)[:2], [limit], namespace, [place])
        found = [self._readable(namespace, place, *pair) for pair in zip(flat[::2], flat[1::2], strict=True)]
        return [record for record in found if record is not None]

    def one(self, namespace: str, place: str, key: str) -> ControlRecord | None:
        """See :meth:`stem_kombu.stores.base.RevokeStore.record`."""
        name = self._database.key(keys_of(namespace, place)[0])
        found = self._database.command("hget", name, key)
        return None if found is None else self._readable(namespace, place, key.encode(), found)

    def floor(self, namespace: str) -> int:
        """See :meth:`stem_kombu.stores.base.RevokeStore.floor`."""
        name = self._database.key(floor_key(namespace))
        found = self._database.command("get", name)
        return int(found) if found is not None and found.isdigit() else 0

    def prune(self, namespace: str, before: datetime) -> int:
        """See :meth:`stem_kombu.stores.base.RevokeStore.prune_records`."""
        pruned = 0
        for place in self._places(namespace):
            looked = _PAGE
            while looked == _PAGE:
                keys = [*keys_of(namespace, place), floor_key(namespace)]
                looked, count = self._database.evaluate(_PRUNE, keys, [_PAGE, epoch_us(before)])
                pruned += count
        return pruned

    def _places(self, namespace: str) -> list[str]:
        name = self._database.key(places_key(namespace))
        return sorted(place.decode() for place in self._database.command("smembers", name))

    def _evaluate(
        self,
        script: RedisScript,
        keys: Sequence[str],
        arguments: list[str | int],
        namespace: str,
        places: Sequence[str],
    ) -> Any:
        try:
            return self._database.evaluate(script, keys, arguments)
        except StoreError as error:
            if "WRONGTYPE" in error.message:
                raise StoreCorrupt(
                    f"{error.message} ({self._database.key(keys[0])})",
                    hint="another program wrote to this key: rename it, and the store starts an empty one",
                ) from error
            if "REBUILD" not in error.message:
                raise
        for place in places:
            self._rebuild(keys_of(namespace, place))
        return self._database.evaluate(script, keys, arguments)

    def _rebuild(self, keys: Sequence[str]) -> None:
        """Make the indexes of a place anew from its records, a page at a time."""
        for script, scan, key in ((_INDEX, "hscan_iter", keys[0]), (_SWEEP, "zscan_iter", keys[1])):
            name = self._database.key(key)

            def scanned(client: object, scan: str = scan, name: str = name) -> list[tuple[bytes, object]]:
                return list(getattr(client, scan)(name, count=_PAGE))

            found = self._database.run(scanned)
            for first in range(0, len(found), _PAGE):
                page = [entry[0] for entry in found[first : first + _PAGE]]
                self._database.evaluate(script, keys, page)

    def _readable(self, namespace: str, place: str, key: bytes, found: bytes) -> ControlRecord | None:
        try:
            fields = mapping(json_value(found), "a record")
            row = (fields["version"], fields["stored_us"], fields["expires_us"], fields["body"])
            return ControlRecord.of((place, key.decode(), *row))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            where = f"{self._database.key(keys_of(namespace, place)[0])} field {key.decode(errors='replace')}"
            self._quarantine.add(namespace, where, f"{error}: {found[:120].decode(errors='replace')}")
            return None


@lru_cache(maxsize=256)
def keys_of(namespace: str, place: str) -> tuple[str, ...]:
    """The keys of a place."""
    return tuple([f"{{{namespace}}}:control:records:{place}{index}" for index in ("", ":versions", ":expiry")])


def places_key(namespace: str) -> str:
    """The set of places."""
    return f"{{{namespace}}}:control:places"


def floor_key(namespace: str) -> str:
    """The highest version of a record that was pruned."""
    return f"{{{namespace}}}:control:floor"
