"""The scripts by which messages leave Redis queues without a moment in which nobody has them.

Kombu pops a message and then notes it as unacknowledged: a consumer that is killed in between loses it. Here both are
one script. The formats are Kombu's (a hash ``tag -> [message, exchange, routing key]`` and an index ``tag -> time``), so
that its own consumers restore what ours leave behind, and the other way round.

While a consumer waits, the server moves the next message into a list of that consumer's own (``BLMOVE``), its *landing*.
From there the next call of :data:`TAKE` fetches it, and :data:`RESCUE` brings it back should the consumer have died.
"""

from __future__ import annotations

#: The server's clock, in seconds: leases begin and end by it, so that no worker's date can make one longer or shorter.
NOW = """
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
"""

# KEYS: hash, index, then a pair for each source: queue, landing. ARGV: how many messages may come, the tag prefix, then
# for each source the end of a hash entry, then the tags that are acknowledged. Returns for each message: its tag, the
# number of its source, its text. What has landed comes first; what there is no room for goes back to the head of its
# queue.
TAKE = (
    NOW
    + """
local room, prefix = tonumber(ARGV[1]), ARGV[2]
local taken, number = {}, 0
for i = 3 + (#KEYS - 2) / 2, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[i])
  redis.call('ZREM', KEYS[2], ARGV[i])
end
local function take(source, text)
  number = number + 1
  local tag = prefix .. number
  redis.call('HSET', KEYS[1], tag, '[' .. text .. ARGV[2 + source])
  redis.call('ZADD', KEYS[2], now, tag)
  taken[#taken + 1] = tag
  taken[#taken + 1] = source
  taken[#taken + 1] = text
end
local sources = (#KEYS - 2) / 2
for source = 1, sources do
  local queue, landing = KEYS[1 + 2 * source], KEYS[2 + 2 * source]
  local landed = redis.call('LPOP', landing, 1000)
  for _, text in ipairs(landed or {}) do
    if number < room then take(source, text) else redis.call('RPUSH', queue, text) end
  end
end
for source = 1, sources do
  if number < room then
    for _, text in ipairs(redis.call('RPOP', KEYS[1 + 2 * source], room - number) or {}) do take(source, text) end
  end
end
return taken
"""
)

# KEYS: the registry of landings. ARGV: their names. By the server's clock, which all sweepers share.
REGISTER = """
local now = redis.call('TIME')[1]
for _, name in ipairs(ARGV) do redis.call('ZADD', KEYS[1], now, name) end
return #ARGV
"""

# KEYS: the registry. ARGV: seconds after which a landing that was not registered again is nobody's, what stands between
# a landing's key and its queue's in a name. A waiting BLMOVE lasts a few seconds and is preceded by a registration, so
# that none can fill a landing that is forgotten here. Returns how many messages went back.
RESCUE = """
local before = redis.call('TIME')[1] - ARGV[1]
local back = 0
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before, 'LIMIT', 0, 100)) do
  local at = string.find(name, ARGV[2], 1, true)
  local landing, queue = string.sub(name, 1, at - 1), string.sub(name, at + #ARGV[2])
  for _, text in ipairs(redis.call('LPOP', landing, 1000) or {}) do
    redis.call('RPUSH', queue, text)
    back = back + 1
  end
  redis.call('ZREM', KEYS[1], name)
end
return back
"""

# KEYS: the index. ARGV: seconds for which a message that nobody renews stays with its consumer, how many may come.
# Returns the tags of those that have been left for longer.
OVERDUE = """
local before = redis.call('TIME')[1] - ARGV[1]
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before, 'LIMIT', 0, ARGV[2])
"""

# KEYS: hash, index, then the queue of each text. ARGV: seconds as for OVERDUE, the tag, then the texts. Brings the message
# back unless it was renewed or acknowledged since it was found overdue. Returns how many texts were pushed.
RESTORE = """
local score = redis.call('ZSCORE', KEYS[2], ARGV[2])
if not score or tonumber(score) > redis.call('TIME')[1] - ARGV[1] then return 0 end
for i = 3, #KEYS do redis.call('RPUSH', KEYS[i], ARGV[i]) end
redis.call('HDEL', KEYS[1], ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[2])
return #KEYS - 2
"""
