"""The Lua that runs inside Redis: each script is one atomic step, timed by the server's clock.

Keys, all in one hash slot (``{namespace}``):

1. ``…:revokes``    hash, task id to record as JSON; times are whole microseconds since the epoch; ``proofs`` where signed
2. ``…:versions``   sorted set, task id by version
3. ``…:expiry``     sorted set, task id by expiry, of those that expire
4. ``…:revision``   the highest version ever given
5. ``…:set-aside``  hash, task id to a record that could not be read when another one took its place

The first holds the records, the next three are indexes. Readers and writers check first that the indexes fit
(``REBUILD`` says that they don't), and the store makes them anew from the records, page by page:
:mod:`stem_kombu.stores.redis_repair`.

Whole numbers stay below 2**53, which Lua's doubles hold exactly, but must be written with ``%.0f``: tostring() and
cjson round to 14 digits. Everything that can fail comes before the first write, since Redis does not roll back.
Lua's unpack() is limited to some 8,000 values, so commands take at most 1,000 of them. Needs Redis 5 or later, whose
scripts may write after they read the time.
"""

from __future__ import annotations

from stem_kombu.drivers.redis import RedisScript
from stem_kombu.stores.batch import CEILING

PRELUDE = f"""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function whole(number) return string.format('%.0f', number) end

-- A version that the store can have given, and go on from; nil for anything else.
local function version_of(value)
  local number = tonumber(value)
  if number and number >= 0 and number < {CEILING} and number == math.floor(number) then return number end
  return nil
end

local function highest()
  local top = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  if #top == 0 then return 0 end
  return version_of(top[2])
end

-- Whether the indexes fit the records. An index of another type counts as one that does not; records of another type
-- are an error.
local function fits()
  local held, given = redis.call('HLEN', KEYS[1]), redis.pcall('GET', KEYS[4])
  if redis.pcall('ZCARD', KEYS[2]) ~= held then return false end
  local ending = redis.pcall('ZCARD', KEYS[3])
  if type(ending) ~= 'number' or ending > held or type(given) == 'table' then return false end
  local top = highest()
  if not top then return false end
  if not given then return held == 0 end
  given = version_of(given)
  return given ~= nil and given >= top
end

-- The fields of a record, or nil when it can't be read. 0, 1 and null stand for flags: stem-kombu 0.1.0 stored them so,
-- null as Lua shows it.
local function decoded(text)
  text = string.gsub(text, '"terminate":userdata: [^,]*', '"terminate":false')
  local readable, record = pcall(cjson.decode, text)
  if not readable or type(record) ~= 'table' then return nil end
  if record.terminate == cjson.null or record.terminate == 0 then record.terminate = false end
  if record.terminate == 1 then record.terminate = true end
  if type(record.terminate) ~= 'boolean' or not record.reason or not record.requested_by then return nil end
  if record.expires_us ~= cjson.null and type(record.expires_us) ~= 'number' then return nil end
  return record
end
"""

#: ARGV: where to begin as ZRANGEBYSCORE's minimum, limit, and 1 to answer one by one. Answers now, how many records, the version
#: of the last one, and a page as four JSON lists: task ids, versions, what stands behind the version in a record, and how many
#: that follow each other have the same there: a batch has. Few strings, because redis-py needs longer to read a thousand small
#: ones than Redis needs to find them. A record that does not begin with its version has null for it, and comes whole. One by one
#: it is now, task id, record, task id …: for a page in which a record is no JSON.
PAGE = RedisScript(
    PRELUDE
    + """
if not fits() then return redis.error_reply('REBUILD') end
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])
if #ids == 0 then return {whole(now), 0, '0', '[]', '[]', '[]', '[]'} end
local values = redis.call('HMGET', KEYS[1], unpack(ids))
if ARGV[3] == '1' then
  local answer = {whole(now)}
  for place, id in ipairs(ids) do answer[2 * place], answer[2 * place + 1] = id, values[place] or 'null' end
  return answer
end
local find, sub = string.find, string.sub
local versions, rests, counts, last, many = {}, {}, {}, nil, 0
for place, text in ipairs(values) do
  text = text or 'null'
  local _, comma = find(text, '^{"version":%d+,')
  versions[place] = comma and sub(text, 12, comma - 1) or 'null'
  if not (comma and last and #text == comma + #last and find(text, last, comma + 1, true)) then
    last, many = comma and sub(text, comma + 1), many + 1
    rests[many], counts[many] = comma and '{' .. last or text, 0
  end
  counts[many] = counts[many] + 1
end
local version = whole(tonumber(redis.call('ZSCORE', KEYS[2], ids[#ids])))
local function listed(values) return '[' .. table.concat(values, ',') .. ']' end
return {whole(now), #ids, version, cjson.encode(ids), listed(versions), listed(rests), listed(counts)}
"""
)

#: ARGV: task id. Answers now and the record, or nil.
GET = RedisScript(PRELUDE + "return {whole(now), redis.call('HGET', KEYS[1], ARGV[1])}")

#: ARGV: task ids. Answers which server this is and since when (empty where this user may not ask), the revision, and
#: the record of each task, or nil.
GLANCE = RedisScript(
    PRELUDE
    + """
if not fits() then return redis.error_reply('REBUILD') end
local function said(section, name)
  local info = redis.pcall('INFO', section)
  return type(info) == 'string' and string.match(info, name .. ':(%w+)') or ''
end
local identity = said('server', 'run_id') .. said('replication', 'master_replid')
local answer = {identity, redis.call('GET', KEYS[4]) or '0'}
for place, id in ipairs(ARGV) do answer[place + 2] = redis.call('HGET', KEYS[1], id) end
return answer
"""
)

#: ARGV: limit, grace in microseconds. Answers how many expired records it deleted. An entry of the index whose record
#: does not expire then, or not at all, is only an entry: it goes, the record stays (G5).
PRUNE = RedisScript(
    PRELUDE
    + """
if not fits() then return redis.error_reply('REBUILD') end
local last = now - ARGV[2]
local ids = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', whole(last), 'LIMIT', 0, ARGV[1])
if #ids == 0 then return {0, 0} end
local expired, pruned = {}, 0
for place, found in ipairs(redis.call('HMGET', KEYS[1], unpack(ids))) do
  local record = found and decoded(found)
  if record and record.expires_us ~= cjson.null and record.expires_us <= last then expired[#expired + 1] = ids[place] end
end
redis.call('ZREM', KEYS[3], unpack(ids))
if #expired > 0 then
  redis.call('HDEL', KEYS[1], unpack(expired))
  redis.call('ZREM', KEYS[2], unpack(expired))
end
return {#ids, #expired}
"""
)
