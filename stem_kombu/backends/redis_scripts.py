"""The Lua that runs inside Redis: each script is one atomic step, timed by the server's clock.

Keys:

- ``stem:task:<id>``             a task's record in the stored form of :mod:`stem_kombu.backends.stored`; expires by itself
- ``{namespace}:control:roster`` hash, worker id to ``[stamp,held until,kept until,\\n"boot",\\n{beat}]``, in whole
  microseconds since the epoch; lives as long as its longest-lived entry

Whole numbers stay below 2**53, which Lua's doubles hold exactly, but must be written with ``%.0f``: tostring() rounds
to 14 digits. Scripts take heads apart at their line breaks and never decode what they only pass on: cjson would round
large numbers in a result, turn ``[]`` into ``{}``, and choke on lone surrogates. Needs Redis 5 or later, whose scripts
may write after they read the time.
"""

from __future__ import annotations

from stem_kombu.drivers.redis import RedisScript

#: KEYS: one a record, in order; an id may occur again. ARGV: life in ms of a record that ended, and of one that did not,
#: then the records. Answers for each record 1 when it was admitted and stored as it is; ``+`` and the head (up to the
#: body) when it was stored with something carried over; ``-`` and the held record when it was refused; ``!`` when what
#: is held is no record. The rule is that of stem_kombu.outcome; a property test holds the two together.
RECORD = RedisScript(
    r"""
local ranks = {queued = 0, running = 1, retrying = 2, succeeded = 3, failed = 3, cancelled = 3}
local pattern = '^%["(%l+)",(%d+),\n([^\n]*),\n([^\n]*),\n([^\n]*),\n([^\n]*),\n()'
local answers = {}
for place, key in ipairs(KEYS) do
  local new = ARGV[place + 2]
  local state, attempt, queue, worker, enqueued, started, body = string.match(new, pattern)
  local rank, number = ranks[state], tonumber(attempt)
  local held = redis.pcall('GET', key)
  local answer = 1
  if held then
    local was, held_attempt, held_queue, held_worker, held_enqueued, held_started
    if type(held) == 'string' then
      was, held_attempt, held_queue, held_worker, held_enqueued, held_started = string.match(held, pattern)
    end
    local held_rank, held_number = ranks[was or ''], tonumber(held_attempt or '')
    local sent, held_sent = tonumber(enqueued), tonumber(held_enqueued or '')
    if not held_rank then
      answer = '!'
    elseif sent and held_sent and sent > held_sent then
      if held_rank < 3 and rank == 0 then answer = '-' .. held end
    elseif held_rank == 3 or (sent and held_sent and sent < held_sent) or number < held_number
        or (number == held_number and rank < held_rank) then
      answer = '-' .. held
    else
      if queue == 'null' or queue == '""' then queue = held_queue end
      if worker == 'null' or worker == '""' then worker = held_worker end
      if enqueued == 'null' then enqueued = held_enqueued end
      if started == 'null' and number == held_number then started = held_started end
      local head = '["' .. state .. '",' .. attempt .. ',\n'
        .. queue .. ',\n' .. worker .. ',\n' .. enqueued .. ',\n' .. started .. ',\n'
      if string.sub(new, 1, body - 1) ~= head then
        new = head .. string.sub(new, body)
        answer = '+' .. head
      end
    end
  end
  if answer == 1 or string.byte(answer) == 43 then
    redis.call('SET', key, new, 'PX', rank == 3 and ARGV[1] or ARGV[2])
  end
  answers[place] = answer
end
return answers
"""
)

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function whole(number) return string.format('%.0f', number) end
"""

#: ARGV: worker, boot as JSON, beat, and in microseconds for how long it holds the id and is kept; then 1 to claim, and boot
#: and stamp of an entry that holds nothing, as its worker has ended.
#: Answers now, and the entry of another boot that holds the id (nothing is written then).
BEAT = RedisScript(
    _NOW
    + r"""
local roster, worker, boot = KEYS[1], ARGV[1], ARGV[2]
if ARGV[6] == '1' then
  local entry = redis.call('HGET', roster, worker)
  if entry then
    local stamp, held_until, holder = string.match(entry, '^%[(%d+),(%d+),%d+,\n([^\n]*),\n')
    if holder and holder ~= boot and now <= tonumber(held_until) and not (holder == ARGV[7] and stamp == ARGV[8]) then
      return {whole(now), entry}
    end
  end
end
redis.call('HSET', roster, worker, '[' .. whole(now) .. ',' .. whole(now + ARGV[4]) .. ',' .. whole(now + ARGV[5])
  .. ',\n' .. boot .. ',\n' .. ARGV[3] .. ']')
local life = math.ceil(ARGV[5] / 1000)
if redis.call('PTTL', roster) < life then redis.call('PEXPIRE', roster, whole(life)) end
return {whole(now), false}
"""
)

#: ARGV: worker, boot as JSON. Deletes the worker's entry unless it is of another boot.
LEAVE = RedisScript(
    r"""
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if not entry then return 0 end
local holder = string.match(entry, '^%[%d+,%d+,%d+,\n([^\n]*),\n')
if holder and holder ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""
)

#: Answers now and the entries as one JSON list (one string, because redis-py needs longer to read a thousand small ones
#: than Redis needs to find them), or nil when one of them has another shape. Entries that have aged out are deleted.
VIEW = RedisScript(
    _NOW
    + r"""
local entries, kept, strange = redis.call('HGETALL', KEYS[1]), {}, false
for place = 1, #entries, 2 do
  local kept_until = string.match(entries[place + 1], '^%[%d+,%d+,(%d+),\n[^\n]*,\n')
  if not kept_until then
    strange = true
  elseif now < tonumber(kept_until) then
    kept[#kept + 1] = entries[place + 1]
  else
    redis.call('HDEL', KEYS[1], entries[place])
  end
end
if strange then return {whole(now), false} end
return {whole(now), '[' .. table.concat(kept, ',') .. ']'}
"""
)
