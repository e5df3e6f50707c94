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

#: ARGV: JSON list of [task_id, terminate, reason, requested_by, life_us, proof …], distinct ids, and the most proofs that
#: a record keeps. Answers the records as one JSON list. The rules are stem_kombu.revocation.merge and kept_proofs; a
#: property test holds them together.
SAVE = RedisScript(
    PRELUDE
    + """
if not fits() then return redis.error_reply('REBUILD') end
local records, versions, expiry, revision = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local drafts = cjson.decode(ARGV[1])
local version = math.max(tonumber(redis.call('GET', revision) or '0'), now)

local function text(value)
  if value == cjson.null then return 'null' end
  return cjson.encode(value)
end

local held, unreadable = {}, {}
for first = 1, #drafts, 1000 do
  local ids = {}
  for place = first, math.min(first + 999, #drafts) do ids[#ids + 1] = drafts[place][1] end
  for place, found in ipairs(redis.call('HMGET', records, unpack(ids))) do
    if found then
      local record = decoded(found)
      if not record then unreadable[#unreadable + 1], unreadable[#unreadable + 2] = ids[place], found end
      held[first + place - 1] = record
    end
  end
end

-- A batch mostly says the same of all its tasks, and what follows the version is then the text of the one before.
local rest, said = nil, {}
local function rest_of(terminate, reason, requested_by, expires)
  if not rest or terminate ~= said[1] or reason ~= said[2] or requested_by ~= said[3] or expires ~= said[4] then
    said = {terminate, reason, requested_by, expires}
    rest = ',"issued_us":' .. whole(now) .. ',"terminate":' .. tostring(terminate) .. ',"reason":' .. text(reason)
      .. ',"requested_by":' .. text(requested_by)
      .. ',"expires_us":' .. (expires == cjson.null and 'null' or whole(expires)) .. '}'
  end
  return rest
end

local last_expires, last_expires_text
local function expires_text(expires)
  if expires ~= last_expires then last_expires, last_expires_text = expires, whole(expires) end
  return last_expires_text
end

-- What matters of a proof: its key's id and fingerprint, when it was signed, when it expires, whether it terminates.
-- Nil when it is none.
local function facts(proof)
  if type(proof) ~= 'string' then return nil end
  local readable, fields = pcall(cjson.decode, proof)
  if not (readable and type(fields) == 'table' and type(fields.s) == 'string' and type(fields.t) == 'number'
      and type(fields.x) == 'boolean' and (fields.e == cjson.null or type(fields.e) == 'number')) then
    return nil
  end
  local key = string.match(fields.s, '^[^:]*:([^:]*):[^:]*$')
  local fingerprint = fields.f == nil and '' or fields.f
  if type(fingerprint) ~= 'string' then return nil end
  return key and {key .. ':' .. fingerprint, fields.t, fields.e == cjson.null and math.huge or fields.e, fields.x}
end

local function kept_proofs(held, draft)
  local texts, found, seen = {}, {}, {}
  local function add(proof)
    local read = not seen[proof] and facts(proof)
    if read then
      seen[proof] = true
      texts[#texts + 1], found[#found + 1] = proof, read
    end
  end
  for _, proof in ipairs(held) do add(proof) end
  for place = 6, #draft do add(draft[place]) end
  if #texts < 2 then return texts end
  local best = {}
  for place, read in ipairs(found) do
    local own = best[read[1]]
    if not own then own = {}; best[read[1]] = own end
    if not own.newest or read[2] >= found[own.newest][2] then own.newest = place end
    if not own.longest or read[3] >= found[own.longest][3] then own.longest = place end
    if read[4] and (not own.ending or read[3] >= found[own.ending][3]) then own.ending = place end
  end
  local kept, result = {}, {}
  for _, own in pairs(best) do
    kept[own.newest], kept[own.longest] = true, true
    if own.ending then kept[own.ending] = true end
  end
  local total, most = 0, tonumber(ARGV[2])
  for place = 1, #texts do if kept[place] then total = total + 1 end end
  for place, read in ipairs(found) do
    if total > most and kept[place] and read[3] <= now then kept[place], total = nil, total - 1 end
  end
  for place, proof in ipairs(texts) do
    if kept[place] and #result < most then result[#result + 1] = proof end
  end
  return result
end

local stored, hash, by_version, by_expiry, everlasting = {}, {}, {}, {}, {}
for place, draft in ipairs(drafts) do
  local id, terminate, reason, requested_by, life = draft[1], draft[2], draft[3], draft[4], draft[5]
  local expires = cjson.null
  if life ~= cjson.null then expires = now + life end
  local record = held[place]
  local proofs = {}
  if record and (record.expires_us == cjson.null or record.expires_us > now) then
    if type(record.proofs) == 'table' then proofs = record.proofs end
    terminate = terminate or record.terminate
    if reason == cjson.null then reason = record.reason end
    if requested_by == cjson.null then requested_by = record.requested_by end
    if expires ~= cjson.null then
      if record.expires_us == cjson.null then expires = cjson.null
      else expires = math.max(expires, record.expires_us) end
    end
  end
  version = version + 1
  local number = whole(version)
  local value = '{"version":' .. number .. rest_of(terminate, reason, requested_by, expires)
  if #proofs > 0 or #draft > 5 then
    proofs = kept_proofs(proofs, draft)
    if #proofs > 0 then value = string.sub(value, 1, -2) .. ',"proofs":' .. cjson.encode(proofs) .. '}' end
  end
  local pair = 2 * place
  stored[place] = value
  hash[pair - 1], hash[pair] = id, value
  by_version[pair - 1], by_version[pair] = number, id
  if expires ~= cjson.null then
    by_expiry[#by_expiry + 1] = expires_text(expires)
    by_expiry[#by_expiry + 1] = id
  elseif record and record.expires_us ~= cjson.null then
    everlasting[#everlasting + 1] = id
  end
end

local function in_parts(command, key, values)
  for first = 1, #values, 1000 do
    redis.call(command, key, unpack(values, first, math.min(first + 999, #values)))
  end
end
in_parts('HSET', KEYS[5], unreadable)
in_parts('HSET', records, hash)
in_parts('ZADD', versions, by_version)
in_parts('ZADD', expiry, by_expiry)
in_parts('ZREM', expiry, everlasting)
redis.call('SET', revision, whole(version))
return '[' .. table.concat(stored, ',') .. ']'
"""
)

#: ARGV: where to begin as ZRANGEBYSCORE's minimum, limit, and 1 to answer one by one. Answers now and a page of records as
#: one JSON list of [task_id, version, record]: one string, because redis-py needs longer to read a thousand small ones
#: than Redis needs to find them. One by one it is now, task id, version, record, task id …: for a page in which a record
#: is no JSON.
PAGE = RedisScript(
    PRELUDE
    + """
if not fits() then return redis.error_reply('REBUILD') end
local found = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
if #found == 0 then return {whole(now), '[]'} end
local ids, versions = {}, {}
for place = 1, #found, 2 do
  ids[#ids + 1], versions[#versions + 1] = found[place], whole(tonumber(found[place + 1]))
end
local values = redis.call('HMGET', KEYS[1], unpack(ids))
if ARGV[3] == '1' then
  local answer = {whole(now)}
  for place, id in ipairs(ids) do
    answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = id, versions[place], values[place] or 'null'
  end
  return answer
end
local page = {}
for place, id in ipairs(ids) do
  page[place] = '[' .. cjson.encode(id) .. ',' .. versions[place] .. ',' .. (values[place] or 'null') .. ']'
end
return {whole(now), '[' .. table.concat(page, ',') .. ']'}
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
