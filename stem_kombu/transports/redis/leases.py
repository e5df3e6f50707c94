"""Leases of messages at Redis: keeping a message this worker's for longer than the visibility timeout (G19).

Kombu's consumers give an unacknowledged message to another one after a while. Renewal never uses the connection that
consumes, so that it works from any thread and while the consumer is busy.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.transports.connections import connect, release
from stem_kombu.transports.errors import broker_errors, shown_url

if TYPE_CHECKING:
    from kombu import Connection

#: Moves a tag's time of delivery in Kombu's index of unacknowledged messages, only if the tag is still there and still
#: where we left it: Redis has no fencing, a message that was restored comes back under the same tag with a time of its
#: own. ARGV: for each the tag, the time we left it at (or ''), the time it is (or '': by the server's clock), seconds to
#: add. Returns the new time or '' for each.
_RENEW = """
local kept = {}
local time = redis.call('TIME')
for i = 1, #ARGV, 4 do
  local held = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if not held or (ARGV[i + 1] ~= '' and tonumber(held) ~= tonumber(ARGV[i + 1])) then
    kept[#kept + 1] = ''
  else
    local now = tonumber(ARGV[i + 2]) or (time[1] + time[2] / 1000000)
    local moment = string.format('%.6f', now + ARGV[i + 3])
    redis.call('ZADD', KEYS[1], 'XX', moment, ARGV[i])
    kept[#kept + 1] = moment
  end
end
return kept
"""
#: The attribute of a Kombu message that was taken by a script, which dates it by the server's clock.
DATED_BY_SERVER = "stem_dated_by_server"
#: Renewed in one script: far below the arguments that Redis accepts, and short enough not to hold it up.
_BATCH = 1000


class RedisLeases:
    """Leases of Kombu's Redis transport: the score of a tag in ``unacked_index_key`` is when it was delivered, and
    consumers restore what is older than their ``visibility_timeout``, so all of a queue must have the same one."""

    def __init__(self, connection: Connection, clock: Clock = SYSTEM) -> None:
        self.url = shown_url(connection)
        self._template = connection
        self._clock = clock
        # Kombu's own default is an attribute of its channel class.
        default = connection.transport.Channel.visibility_timeout
        self._lifetime = float((connection.transport_options or {}).get("visibility_timeout") or default)
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._script: object = None
        self._index_key = ""
        # By message, not by tag: a redelivery to ourselves has the same tag and is another message.
        self._left_at: weakref.WeakKeyDictionary[object, str] = weakref.WeakKeyDictionary()

    @property
    def lifetime(self) -> float:
        return self._lifetime

    def renew(self, handles: Sequence[object], seconds: float | None = None) -> list[bool]:
        span = self._lifetime if seconds is None else max(seconds, self._lifetime)
        kept: list[bool] = []
        with self._lock:
            for start in range(0, len(handles), _BATCH):
                kept += self._renew(handles[start : start + _BATCH], span - self._lifetime)
        return kept

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _renew(self, handles: Sequence[Any], ahead: float) -> list[bool]:
        arguments: list[str] = []
        here = repr(self._clock.now())
        for handle in handles:
            # Whoever sweeps goes by the clock that dated the message: the server's for ours, a worker's for Kombu's.
            now = "" if getattr(handle, DATED_BY_SERVER, False) else here
            arguments += [handle.delivery_tag, self._left_at.get(handle, ""), now, repr(ahead)]
        with broker_errors(self._template, "renewing leases"):
            try:
                answers = self._connected()(keys=[self._index_key], args=arguments)
            except Exception:
                self._drop()
                raise
        for handle, answer in zip(handles, answers, strict=True):
            if answer:
                self._left_at[handle] = answer.decode() if isinstance(answer, bytes) else answer
        return [bool(answer) for answer in answers]

    def _connected(self) -> Any:
        if self._script is None:
            connection = self._template.clone()
            connect(connection)
            self._connection = connection
            channel = connection.default_channel
            self._index_key = channel.unacked_index_key
            # Kombu's client for this URL: with its TLS, its socket file or sentinels, and its key prefix, which it puts
            # before the first key of a script.
            with channel.conn_or_acquire() as client:
                self._script = client.register_script(_RENEW)
        return self._script

    def _drop(self) -> None:
        connection, self._connection, self._script = self._connection, None, None
        if connection is not None:
            release(connection)
