"""The Lua by which Redis takes a change as one step, what it is given, and what its answer means."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta

from stem_kombu import timeouts
from stem_kombu.clock import epoch_us, from_epoch_us
from stem_kombu.drivers.redis import RedisScript
from stem_kombu.errors import RecordConflict
from stem_kombu.revocation import MOST_PROOFS, Revocation
from stem_kombu.stores.batch import life_us
from stem_kombu.stores.records import Change, Changed, ControlRecord
from stem_kombu.stores.redis_records import keys_of, places_key
from stem_kombu.stores.redis_scripts import PRELUDE

#: A change: revocations, revocations that end, and control records, all or nothing. KEYS: those of
#: :mod:`stem_kombu.stores.redis_scripts`, the set of places, then
#: of each place the three keys of :mod:`stem_kombu.stores.redis_records`. ARGV:
#:
#: 1. JSON list of [task_id, terminate, reason, requested_by, life_us, proof …], distinct ids
#: 2. the most proofs that a record keeps
#: 3. JSON list of [task_id, version, reason, requested_by, proof …]: revocations that end, where they have that version
#: 4. microseconds before now at which those ended
#: 5. JSON list of [number of the place, key, version replaced, life_us, expires_us, body], nulls where there is none
#: 6. JSON list of [number of the place, key]: records to delete
#: 7. … the names of the places
#:
#: Answers the revocations as one JSON list, now, and the version of the last revocation; or 'conflict', place, key, the
#: version that the change replaces, and the one that is held. The rules are stem_kombu.revocation.merge and kept_proofs; a
#: property test holds them together.
CHANGE = RedisScript(
    PRELUDE
    + """
if not fits() then return redis.error_reply('REBUILD') end
local records, versions, expiry, revision = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local drafts, removals = cjson.decode(ARGV[1]), cjson.decode(ARGV[3])
local changes, forgotten = cjson.decode(ARGV[5]), cjson.decode(ARGV[6])
local function keys_of(number) return KEYS[4 + 3 * number], KEYS[5 + 3 * number], KEYS[6 + 3 * number] end

for _, removal in ipairs(removals) do
  local found = redis.call('HGET', records, removal[1])
  local record = found and decoded(found)
  local version = record and version_of(record.version) or 0
  if version ~= removal[2] then return {'conflict', 'revocation', removal[1], whole(removal[2]), whole(version)} end
end
for _, change in ipairs(changes) do
  if change[3] ~= cjson.null then
    local found = redis.call('HGET', keys_of(change[1]), change[2])
    local version = found and version_of(string.match(found, '^{"version":(%d+),')) or 0
    if version ~= change[3] then
      return {'conflict', ARGV[6 + change[1]], change[2], whole(change[3]), whole(version)}
    end
  end
end
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
  local bound = fields.b == nil and '' or fields.b
  if type(fingerprint) ~= 'string' or type(bound) ~= 'string' then return nil end
  return key and {key .. ':' .. fingerprint .. ':' .. bound, fields.t, fields.e == cjson.null and math.huge or fields.e, fields.x}
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

-- What stem_kombu.bound does: bounds are kept where all that is merged is bound, and name when their record was issued.
local function is_bound(proof) return type(proof) == 'string' and string.find(proof, '"s":"bound:', 1, true) ~= nil end
local function issued(proof) return string.match(proof, ',"i":(%d+)}$') end
local function bare(proof) return (string.gsub(proof, ',"i":%d+}$', '}')) end
local function joined(held, draft, issued_us)
  local ours, theirs, left, right, counts = {}, {}, false, false, {}
  for _, proof in ipairs(held) do
    if is_bound(proof) then
      if issued(proof) == issued_us then left, counts[proof] = true, true end
    end
  end
  for place = 6, #draft do right = right or is_bound(draft[place]) end
  for _, proof in ipairs(held) do
    if not is_bound(proof) then ours[#ours + 1] = proof
    elseif counts[proof] and right then ours[#ours + 1] = bare(proof) end
  end
  for place = 1, 5 do theirs[place] = draft[place] end
  for place = 6, #draft do
    local proof = draft[place]
    if not is_bound(proof) then theirs[#theirs + 1] = proof
    elseif left then theirs[#theirs + 1] = bare(proof) end
  end
  return ours, theirs
end
local function stamped(proofs)
  for place, proof in ipairs(proofs) do
    if is_bound(proof) and string.sub(proof, -1) == '}' then
      proofs[place] = string.sub(bare(proof), 1, -2) .. ',"i":' .. whole(now) .. '}'
    end
  end
  return proofs
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
    if #proofs > 0 or #draft > 5 then proofs, draft = joined(proofs, draft, whole(record.issued_us)) end
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
    proofs = stamped(kept_proofs(proofs, draft))
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

local last_revocation = version
for _, removal in ipairs(removals) do
  version = version + 1
  local ended, proofs = whole(now - ARGV[4]), {}
  for place = 5, #removal do proofs[#proofs + 1] = removal[place] end
  hash[#hash + 1], hash[#hash + 2] = removal[1], '{"version":' .. whole(version) .. ',"issued_us":' .. whole(now)
    .. ',"terminate":false,"reason":' .. text(removal[3]) .. ',"requested_by":' .. text(removal[4]) .. ',"expires_us":' .. ended
    .. (#proofs > 0 and ',"proofs":' .. cjson.encode(proofs) or '') .. '}'
  by_version[#by_version + 1], by_version[#by_version + 2] = whole(version), removal[1]
  by_expiry[#by_expiry + 1], by_expiry[#by_expiry + 2] = ended, removal[1]
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
for _, change in ipairs(forgotten) do
  local held, versions_of, expiry_of = keys_of(change[1])
  redis.call('HDEL', held, change[2])
  redis.call('ZREM', versions_of, change[2])
  redis.call('ZREM', expiry_of, change[2])
end
for _, change in ipairs(changes) do
  local held, versions_of, expiry_of = keys_of(change[1])
  local expires = change[5]
  if change[4] ~= cjson.null then expires = now + change[4] end
  expires = expires ~= cjson.null and whole(expires)
  version = version + 1
  redis.call('SADD', KEYS[6], ARGV[6 + change[1]])
  redis.call('HSET', held, change[2], '{"version":' .. whole(version) .. ',"stored_us":' .. whole(now)
    .. ',"expires_us":' .. (expires or 'null') .. ',"body":' .. cjson.encode(change[6]) .. '}')
  redis.call('ZADD', versions_of, whole(version), change[2])
  if expires then redis.call('ZADD', expiry_of, expires, change[2]) else redis.call('ZREM', expiry_of, change[2]) end
end
if #hash > 0 or #changes > 0 then redis.call('SET', revision, whole(version)) end
return {'[' .. table.concat(stored, ',') .. ']', whole(now), whole(last_revocation)}
"""
)


def arguments_of(namespace: str, change: Change) -> tuple[list[str], list[str | int]]:
    """The keys and arguments of a checked change, beside the keys of the revocations."""
    places = sorted({draft.place for draft in change.records} | {place for place, _ in change.forgotten})
    number = {place: at for at, place in enumerate(places, 1)}
    drafts = [
        [d.task_id, d.terminate, d.reason, d.requested_by, life_us(d.expires_in), *d.proofs] for d in change.revocations
    ]
    removals = [[r.task_id, r.version, r.reason, r.requested_by, *r.proofs] for r in change.removals]
    records = []
    for draft in change.records:
        life = life_us(draft.expires_in)
        expires_us = None if draft.expires_at is None else epoch_us(draft.expires_at)
        records.append([number[draft.place], draft.key, draft.replaces, life, expires_us, draft.text])
    forgotten = [[number[place], key] for place, key in change.forgotten]
    lists = [json.dumps(found, ensure_ascii=False) for found in (drafts, removals, records, forgotten)]
    ended_us = timedelta(seconds=timeouts.ENDED_BEFORE) // timedelta(microseconds=1)
    keys = [places_key(namespace), *[key for place in places for key in keys_of(namespace, place)]]
    return keys, [lists[0], MOST_PROOFS, lists[1], ended_us, lists[2], lists[3], *places]


def done_of(
    answer: Sequence[bytes], change: Change, namespace: str, record_of: Callable[[str, str, object], Revocation]
) -> Changed:
    """What the store answered to a change; raises :class:`~stem_kombu.errors.RecordConflict`."""
    if answer[0] == b"conflict":
        _, place, key, replaces, held = (part.decode() for part in answer)
        raise RecordConflict.of(place, key, int(replaces), int(held))
    now, version = from_epoch_us(int(answer[1])), int(answer[2]) + 1
    drafts = zip(change.revocations, json.loads(answer[0]), strict=True)
    stored = [record_of(namespace, draft.task_id, found) for draft, found in drafts]
    ended = [removal.ended(namespace, version + at, now) for at, removal in enumerate(change.removals)]
    version += len(ended)
    records = [
        ControlRecord(draft.place, draft.key, version + at, now, draft.expires(now), draft.body)
        for at, draft in enumerate(change.records)
    ]
    version += len(records)
    return Changed(stored, ended, records, version - 1 if stored or ended or records else 0)
