"""Messages of failed tasks in Redis: a hash by task id, and their order by the time at which they expire.

Keys: ``{namespace}:failed:messages``, ``{namespace}:failed:order`` (microseconds since the epoch), ``{namespace}:failed:bytes``.
All expire with their youngest message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stem_kombu.backends.failed import MOST, MOST_BYTES, FailedMessage, FailedMessages
from stem_kombu.clock import from_epoch_us
from stem_kombu.drivers.redis import RedisDatabase, RedisScript
from stem_kombu.settings import TlsSettings

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""
#: ARGV: life in microseconds, most messages, most bytes, then id and text of each.
_KEEP = RedisScript(
    _NOW
    + """
local messages, order, bytes = KEYS[1], KEYS[2], KEYS[3]
local size = tonumber(redis.call('GET', bytes) or '0')
local function remove(id)
  size = size - redis.call('HSTRLEN', messages, id)
  redis.call('HDEL', messages, id)
  redis.call('ZREM', order, id)
end
for place = 4, #ARGV, 2 do
  remove(ARGV[place])
  redis.call('HSET', messages, ARGV[place], ARGV[place + 1])
  redis.call('ZADD', order, string.format('%.0f', now + ARGV[1]), ARGV[place])
  size = size + #ARGV[place + 1]
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', order, '-inf', string.format('%.0f', now), 'LIMIT', 0, 1000)) do
  remove(id)
end
while size > tonumber(ARGV[3]) or redis.call('ZCARD', order) > tonumber(ARGV[2]) do
  local oldest = redis.call('ZRANGE', order, 0, 0)
  if not oldest[1] then break end
  remove(oldest[1])
end
redis.call('SET', bytes, string.format('%.0f', size))
local life = math.ceil(ARGV[1] / 1000)
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) < life then redis.call('PEXPIRE', key, string.format('%.0f', life)) end
end
return size
"""
)
#: ARGV: first and last place, the newest first; or nothing and an id. Answers id, microseconds of expiry and text of each.
_READ = RedisScript(
    _NOW
    + """
local ids = {ARGV[3]}
if ARGV[1] ~= '' then ids = redis.call('ZREVRANGE', KEYS[2], ARGV[1], ARGV[2]) end
local found = {}
for _, id in ipairs(ids) do
  local expires, text = redis.call('ZSCORE', KEYS[2], id), redis.call('HGET', KEYS[1], id)
  if expires and text and tonumber(expires) > now then
    found[#found + 1] = id
    found[#found + 1] = string.format('%.0f', expires)
    found[#found + 1] = text
  end
end
return {#ids, found}
"""
)
_PAGE = 100


class RedisFailedMessages(FailedMessages):
    """In one Redis, for any number of hosts. Times are by the server's clock."""

    def __init__(self, url: str, *, name: str = "URL", tls: TlsSettings | None = None) -> None:
        self._database = RedisDatabase(url, name=name, tls=tls, purpose="result backend")

    def keep(self, namespace: str, messages: Sequence[FailedMessage], life: float) -> None:
        pairs = [part for message in messages for part in (message.task_id, message.text.encode())]
        self._database.evaluate(_KEEP, _keys(namespace), [int(life * 1_000_000), MOST, MOST_BYTES, *pairs])

    def get(self, namespace: str, task_id: str) -> FailedMessage | None:
        _, found = self._read(namespace, "", "", task_id)
        return found[0] if found else None

    def scan(self, namespace: str) -> Iterator[FailedMessage]:
        start = 0
        while True:
            looked_at, found = self._read(namespace, start, start + _PAGE - 1)
            yield from found
            if not looked_at:
                return
            start += looked_at

    def close(self) -> None:
        self._database.close()

    def _read(self, namespace: str, *arguments: str | int) -> tuple[int, list[FailedMessage]]:
        looked_at, found = self._database.evaluate(_READ, _keys(namespace), arguments)
        return looked_at, [
            FailedMessage(task_id.decode(), text.decode(), from_epoch_us(int(expires)))
            for task_id, expires, text in zip(found[::3], found[1::3], found[2::3], strict=True)
        ]


def _keys(namespace: str) -> list[str]:
    return [f"{{{namespace}}}:failed:{part}" for part in ("messages", "order", "bytes")]
