"""The Lua that makes the Redis store's indexes anew from its records, a page at a time, while others read and write.

Keys are those of :mod:`stem_kombu.stores.redis_scripts`. Each step may be done twice.
"""

from __future__ import annotations

from stem_kombu.drivers.redis import RedisScript
from stem_kombu.stores.batch import CEILING
from stem_kombu.stores.redis_scripts import PRELUDE

#: ARGV: task ids of a page of the records. Puts them into the indexes, which are made anew where they are of another type.
#: A record whose version no store can have given gets a new one; one that can't be read is numbered 0, before all others.
INDEX = RedisScript(
    PRELUDE
    + """
for place, kind in ipairs({'zset', 'zset', 'string'}) do
  local found = redis.call('TYPE', KEYS[place + 1]).ok
  if found ~= kind and found ~= 'none' then redis.call('DEL', KEYS[place + 1]) end
end
local top = redis.call('ZREVRANGEBYSCORE', KEYS[2], '({CEILING}', '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
local revision = math.max(version_of(redis.call('GET', KEYS[4]) or '0') or 0, tonumber(top[2] or '0'))
for place, id in ipairs(ARGV) do
  local found = redis.call('HGET', KEYS[1], id)
  local record = found and decoded(found)
  local version = record and version_of(record.version)
  if record and not version then
    version = math.max(revision, now) + 1
    local text, changed = string.gsub(found, '"version":[^,}]*', '"version":' .. whole(version), 1)
    if changed == 1 then redis.call('HSET', KEYS[1], id, text) else version = nil end
  end
  if version then
    revision = math.max(revision, version)
    redis.call('ZADD', KEYS[2], whole(version), id)
  elseif found then
    if not version_of(redis.call('ZSCORE', KEYS[2], id) or '') then redis.call('ZADD', KEYS[2], '0', id) end
  end
  if record and record.expires_us ~= cjson.null then redis.call('ZADD', KEYS[3], whole(record.expires_us), id)
  else redis.call('ZREM', KEYS[3], id) end
end
redis.call('SET', KEYS[4], whole(revision))
""".replace("{CEILING}", str(CEILING))
)

#: ARGV: a reason as JSON, and task ids of a page of the index by version, of which all records are lost: they are revoked
#: all the same, until then when the index by expiry says that they end. What else was asked for is not known any more.
RESTORE = RedisScript(
    PRELUDE
    + """
for place = 2, #ARGV do
  local id = ARGV[place]
  local version = version_of(redis.call('ZSCORE', KEYS[2], id) or '') or 0
  local expires = redis.pcall('ZSCORE', KEYS[3], id)
  expires = type(expires) == 'string' and whole(tonumber(expires)) or 'null'
  redis.call('HSETNX', KEYS[1], id, '{"version":' .. whole(version) .. ',"issued_us":' .. whole(math.min(version, now))
    .. ',"terminate":false,"reason":' .. ARGV[1] .. ',"requested_by":null,"expires_us":' .. expires .. '}')
end
"""
)

#: ARGV: task ids of a page of the indexes. Takes those out of the indexes that have no record.
SWEEP = RedisScript(
    """
for _, id in ipairs(ARGV) do
  if redis.call('HEXISTS', KEYS[1], id) == 0 then
    redis.call('ZREM', KEYS[2], id)
    redis.call('ZREM', KEYS[3], id)
  end
end
"""
)

#: Answers what does not fit, as words; nothing where all fits. Changes nothing.
CHECK = RedisScript(
    PRELUDE
    + """
local found = {}
local kinds = {'hash', 'zset', 'zset', 'string'}
for place, kind in ipairs(kinds) do
  local type_of = redis.call('TYPE', KEYS[place]).ok
  if type_of ~= kind and type_of ~= 'none' then found[#found + 1] = KEYS[place] .. ' is a ' .. type_of .. ', not a ' .. kind end
end
if #found == 0 and not fits() then
  found[1] = KEYS[1] .. ' has ' .. redis.call('HLEN', KEYS[1]) .. ' records, ' .. KEYS[2] .. ' ' .. redis.call('ZCARD', KEYS[2])
    .. ', ' .. KEYS[3] .. ' ' .. redis.call('ZCARD', KEYS[3]) .. ', and the highest version is '
    .. (redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2] or '0') .. ' where ' .. KEYS[4] .. ' says '
    .. (redis.call('GET', KEYS[4]) or 'nothing')
end
return found
"""
)

#: ARGV: task ids whose records can't be read. Moves them into the hash of what was set aside.
MOVE = RedisScript(
    """
for _, id in ipairs(ARGV) do
  local found = redis.call('HGET', KEYS[1], id)
  if found then
    redis.call('HSET', KEYS[5], id, found)
    redis.call('HDEL', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
    redis.call('ZREM', KEYS[3], id)
  end
end
"""
)
