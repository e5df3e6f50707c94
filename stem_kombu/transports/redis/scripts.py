"""The scripts by which messages leave Redis queues without a moment in which nobody has them.

Kombu pops a message and then notes it as unacknowledged: a consumer that is killed in between loses it. Here both are
one script. The formats are Kombu's (a hash ``tag -> [message, exchange, routing key]`` and an index ``tag -> time``), so
that its own consumers can restore what ours leave behind where both are given the same keys, and the other way round. A
message is in its queue or noted as unacknowledged, and nowhere else: no command that the server carries out late, or
twice, can move it to a third place.

Workers of version 0.1.0 waited with ``BLMOVE``, which moved the next message into a list of the worker's own, its
*landing*. :data:`RESCUE` and :data:`RESCUE_ONE` bring back what such workers leave there.
"""

from __future__ import annotations

#: The server's clock, in seconds: leases begin and end by it, so that no worker's date can make one longer or shorter.
NOW = """
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
"""

# KEYS: hash, index, then the queue of each source. ARGV: how many messages may come, the tag prefix, then for each source
# the end of a hash entry, then the tags that are acknowledged. Returns for each message: its tag, the number of its source,
# its text.
TAKE = (
    NOW
    + """
local room, prefix = tonumber(ARGV[1]), ARGV[2]
local taken, number = {}, 0
for i = 1 + #KEYS, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[i])
  redis.call('ZREM', KEYS[2], ARGV[i])
end
for source = 1, #KEYS - 2 do
  if number >= room then break end
  for _, text in ipairs(redis.call('RPOP', KEYS[2 + source], room - number) or {}) do
    number = number + 1
    local tag = prefix .. number
    redis.call('HSET', KEYS[1], tag, '[' .. text .. ARGV[2 + source])
    redis.call('ZADD', KEYS[2], now, tag)
    taken[#taken + 1] = tag
    taken[#taken + 1] = source
    taken[#taken + 1] = text
  end
end
return taken
"""
)

# KEYS: the registry of landings. ARGV: seconds after which a landing that was not registered again is nobody's, what stands
# between a landing's key and its queue's in a name, seconds for which a registration is kept, how many to pass over, how
# many to look at. A registration outlives the lease by far, as a BLMOVE may reach the server long after it was sent.
# Returns how many were looked at and kept, and how many messages went back.
RESCUE = """
local now = tonumber(redis.call('TIME')[1])
local kept, back = 0, 0
local names = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'WITHSCORES', 'LIMIT', ARGV[4], ARGV[5])
for i = 1, #names, 2 do
  local name = names[i]
  local at = string.find(name, ARGV[2], 1, true)
  if at then
    local landing, queue = string.sub(name, 1, at - 1), string.sub(name, at + #ARGV[2])
    for _, text in ipairs(redis.call('LPOP', landing, 1000) or {}) do
      redis.call('RPUSH', queue, text)
      back = back + 1
    end
  end
  if not at or tonumber(names[i + 1]) < now - ARGV[3] then redis.call('ZREM', KEYS[1], name) else kept = kept + 1 end
end
return {kept, back}
"""

# KEYS: a landing that is not registered, then the queues of its first message. ARGV: that message's text, then the text
# for each queue. Moves the message unless somebody else did; returns how many are left in the landing.
RESCUE_ONE = """
if redis.call('LINDEX', KEYS[1], 0) == ARGV[1] then
  for i = 2, #KEYS do redis.call('RPUSH', KEYS[i], ARGV[i]) end
  redis.call('LPOP', KEYS[1])
end
return redis.call('LLEN', KEYS[1])
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
