"""Task states and a roster in Redis.

A task is a hash: the record as text that the server never looks into, and beside it the few fields by which records
are compared and which later records carry over. So the rule can run on the server (one script per batch), and a result
passes through it byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from stem_kombu.backends.base import Backend, RosterView
from stem_kombu.backends.heartbeat import STALE_AFTER, Heartbeat
from stem_kombu.backends.rows import RESULT_TTL, beat_text, heartbeat, heartbeats, task_record, task_text, ttl
from stem_kombu.clock import from_epoch_us, isoformat, parse_isoformat
from stem_kombu.drivers.redis import RedisDatabase, RedisScript
from stem_kombu.outcome import TaskRecord
from stem_kombu.settings import TlsSettings

# The rule of outcome.admits and outcome.carried_over; tests compare the two on random sequences. ARGV has nine texts a
# record: attempt, rank, 1 when terminal, the record, its life in ms, enqueued_at, started_at, queue, worker ('' = none).
_RECORD = RedisScript("""
local answer = {}
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 9
  local attempt, rank = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local held = redis.call('HMGET', key, 'attempt', 'rank', 'terminal', 'record',
                          'enqueued_at', 'started_at', 'queue', 'worker')
  local admitted = true
  if held[1] then
    if held[3] == '1' then admitted = false
    elseif attempt ~= tonumber(held[1]) then admitted = attempt > tonumber(held[1])
    else admitted = rank >= tonumber(held[2]) end
  end
  if admitted then
    local enqueued, started, queue, worker = ARGV[a + 6], ARGV[a + 7], ARGV[a + 8], ARGV[a + 9]
    if enqueued == '' then enqueued = held[5] or '' end
    if started == '' and held[1] and tonumber(held[1]) == attempt then started = held[6] or '' end
    if queue == '' then queue = held[7] or '' end
    if worker == '' then worker = held[8] or '' end
    redis.call('HSET', key, 'attempt', ARGV[a + 1], 'rank', ARGV[a + 2], 'terminal', ARGV[a + 3],
               'record', ARGV[a + 4], 'enqueued_at', enqueued, 'started_at', started, 'queue', queue, 'worker', worker)
    redis.call('PEXPIRE', key, ARGV[a + 5])
    answer[i] = {'', enqueued, started, queue, worker}
  else
    answer[i] = {held[4], held[5], held[6], held[7], held[8]}
  end
end
return answer
""")

# An entry is '<stamp in µs> <life in ms> <beat>'. The hash itself lives as long as its longest-lived entry.
_BEAT = RedisScript("""
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local claimed = ARGV[4]
if claimed ~= '' then
  local held = redis.call('HGET', KEYS[1], ARGV[1])
  if held then
    local stamped, beat = string.match(held, '^(%d+) %d+ (.*)$')
    local readable, entry = pcall(cjson.decode, beat or '')
    if readable and entry['boot'] ~= claimed
       and now - tonumber(stamped) <= tonumber(entry['interval_s']) * 1000000 * tonumber(ARGV[5]) then
      return {string.format('%.0f', now), held}
    end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now) .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return {string.format('%.0f', now), false}
""")

_LEAVE = RedisScript("""
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held then
  local readable, entry = pcall(cjson.decode, string.match(held, '^%d+ %d+ (.*)$') or '')
  if readable and entry['boot'] == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
end
return 1
""")

# Entries that have aged out are dropped while looking, so that a fleet with ever new worker ids doesn't grow the hash.
_VIEW = RedisScript("""
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local entries = redis.call('HGETALL', KEYS[1])
local found = {string.format('%.0f', now)}
for i = 1, #entries, 2 do
  local stamped, life = string.match(entries[i + 1], '^(%d+) (%d+) ')
  if stamped and now - tonumber(stamped) <= tonumber(life) * 1000 then
    found[#found + 1] = entries[i]
    found[#found + 1] = entries[i + 1]
  else
    redis.call('HDEL', KEYS[1], entries[i])
  end
end
return found
""")


class RedisBackend(Backend):
    """A backend in one Redis, for any number of hosts. Times are by the server's clock; each key expires by itself."""

    def __init__(
        self, url: str, *, name: str = "URL", tls: TlsSettings | None = None, result_ttl: float = RESULT_TTL
    ) -> None:
        self._database = RedisDatabase(url, name=name, tls=tls, purpose="result backend")
        self._result_ttl = result_ttl
        self.url = self._database.url

    def record(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        if not records:
            return []
        arguments: list[str | bytes | int] = []
        for record in records:
            arguments += [
                record.attempt,
                record.state.rank,
                int(record.state.is_terminal),
                task_text(record),
                int(ttl(record, self._result_ttl) * 1000),
                *_carried(record),
            ]
        keys = [_task_key(record.task_id) for record in records]
        answers = self._database.evaluate(_RECORD, keys, arguments)
        return [self._answered(record, answer) for record, answer in zip(records, answers, strict=True)]

    def get(self, task_id: str) -> TaskRecord | None:
        key = _task_key(task_id)
        fields = ("record", "enqueued_at", "started_at", "queue", "worker")
        found = self._database.run(lambda client: client.hmget(key, *fields))
        return None if found[0] is None else self._read(key, found)

    def beat(self, heartbeat: Heartbeat) -> datetime:
        now, _ = self._beat(heartbeat, claimed="")
        return now

    def claim(self, heartbeat: Heartbeat) -> Heartbeat | None:
        _, held = self._beat(heartbeat, claimed=heartbeat.boot)
        return held

    def leave(self, namespace: str, worker: str, boot: str) -> None:
        self._database.evaluate(_LEAVE, [_roster_key(namespace)], [worker, boot])

    def view(self, namespace: str) -> RosterView:
        now, *pairs = self._database.evaluate(_VIEW, [_roster_key(namespace)], [])
        entries = []
        for worker, entry in zip(pairs[::2], pairs[1::2], strict=True):
            stamped, _, beat = entry.split(b" ", 2)
            entries.append((worker.decode(errors="replace"), beat, int(stamped)))
        entries.sort()
        return RosterView(tuple(heartbeats(entries, f"roster {self.url}")), from_epoch_us(int(now)))

    def ping(self) -> None:
        self._database.run(lambda client: client.ping())

    def close(self) -> None:
        self._database.close()

    def _beat(self, beat: Heartbeat, *, claimed: str) -> tuple[datetime, Heartbeat | None]:
        now, held = self._database.evaluate(
            _BEAT,
            [_roster_key(beat.namespace)],
            [beat.worker, int(beat.lifetime * 1000), beat_text(beat), claimed, repr(STALE_AFTER)],
        )
        if held is None:
            return from_epoch_us(int(now)), None
        stamped, _, text = held.split(b" ", 2)
        return from_epoch_us(int(now)), heartbeat(text, int(stamped))

    def _answered(self, record: TaskRecord, answer: list[Any]) -> TaskRecord:
        if answer[0]:
            return self._read(_task_key(record.task_id), answer)
        return _with_carried(json_copy(record), answer[1:])

    def _read(self, key: str, found: Sequence[Any]) -> TaskRecord:
        return _with_carried(task_record(found[0], f"result backend {self.url}: key {key!r}"), found[1:])


def json_copy(record: TaskRecord) -> TaskRecord:
    """The record as it comes back from JSON (tuples in a result have become lists)."""
    return replace(record, result=json.loads(json.dumps(record.result)))


def _carried(record: TaskRecord) -> list[str]:
    times = [record.enqueued_at, record.started_at]
    return [*("" if at is None else isoformat(at) for at in times), record.queue or "", record.worker or ""]


def _with_carried(record: TaskRecord, carried: Sequence[Any]) -> TaskRecord:
    enqueued_at, started_at, queue, worker = (None if not text else text.decode() for text in carried)
    return replace(
        record,
        enqueued_at=None if enqueued_at is None else parse_isoformat(enqueued_at),
        started_at=None if started_at is None else parse_isoformat(started_at),
        queue=queue,
        worker=worker,
    )


def _task_key(task_id: str) -> str:
    return f"stem:task:{task_id}"


def _roster_key(namespace: str) -> str:
    return f"{namespace}:control:roster"
