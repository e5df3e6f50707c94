"""A control board in a Redis server: a stream for each address, which expires with its last message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.drivers.redis import RedisDatabase, RedisScript
from stem_kombu.errors import StoreError, StoreUnavailable
from stem_kombu.settings import TlsSettings
from stem_kombu.transports.store.board import BURST, Address, readable

#: KEYS: the streams. ARGV: the message, and its life in milliseconds. Of what has expired at a stream's beginning, each
#: message that comes removes a little more than itself.
_PUT = RedisScript(
    """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local life = tonumber(ARGV[2])
for _, key in ipairs(KEYS) do
  for _ = 1, 4 do
    local first = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    if not first or tonumber(first[2][2]) > now then break end
    redis.call('XDEL', key, first[1])
  end
  redis.call('XADD', key, '*', 'expires_ms', string.format('%.0f', now + life), 'body', ARGV[1])
  if redis.call('PTTL', key) < life then redis.call('PEXPIRE', key, life) end
end
"""
)
#: KEYS: the streams. ARGV: the most messages of each; for each the position after which to read, and the ids to remove first,
#: separated by spaces. Answers for each the position to wait from, and ids and bodies. A stream that is gone, and may begin
#: anew with smaller numbers (the server's clock may have been set back), is read from its beginning.
_READ = RedisScript(
    """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function after(one, other)
  local a, b = string.match(one, '^(%d+)%-(%d+)$')
  local c, d = string.match(other, '^(%d+)%-(%d+)$')
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  return a > c or (a == c and b > d)
end
local answer = {}
for place, key in ipairs(KEYS) do
  local position = ARGV[place * 2]
  for id in string.gmatch(ARGV[place * 2 + 1], '%S+') do redis.call('XDEL', key, id) end
  local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  last = last and last[1] or '0-0'
  if last == '0-0' then redis.call('DEL', key) end
  if position == '$' then position = last end
  if after(position, last) then position = '0-0' end
  local found = {}
  if after(last, position) then
    for _, entry in ipairs(redis.call('XRANGE', key, '(' .. position, '+', 'COUNT', ARGV[1])) do
      position = entry[1]
      if tonumber(entry[2][2]) > now then
        found[#found + 1] = entry[1]
        found[#found + 1] = entry[2][4]
      end
    end
  end
  answer[place] = {position, found}
end
return answer
"""
)

T = TypeVar("T")


class RedisControlBoard:
    """Messages in one Redis, for any number of hosts. Times are by the server's clock. See :class:`ControlBoard`."""

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        name: str = "URL",
        tls: TlsSettings | None = None,
        patience: float | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._open = partial(RedisDatabase, url, name=name, tls=tls, purpose="control link")
        self.database = self._open(patience=patience)
        self._namespace, self._clock = namespace, clock
        self.url = self.database.url

    def publish(self, addresses: Sequence[Address], body: bytes, *, expires: float) -> None:
        keys = [_key(self._namespace, address) for address in dict.fromkeys(addresses)]
        self.database.evaluate(_PUT, keys, [body, max(1, int(expires * 1000))])

    def open_reader(self, addresses: Sequence[Address]) -> RedisBoardReader:
        return RedisBoardReader(self, self._namespace, addresses, self._clock)

    def limit(self, seconds: float) -> None:
        self.database = self._open(patience=seconds)

    def close(self) -> None:
        self.database.close()


class RedisBoardReader:
    """See :class:`BoardReader`. It waits on a connection of its own, and reads on those that the process shares."""

    def __init__(self, board: RedisControlBoard, namespace: str, addresses: Sequence[Address], clock: Clock) -> None:
        self._board, self._clock = board, clock
        self._addresses = list(dict.fromkeys(addresses))
        self._keys = [_key(namespace, address) for address in self._addresses]
        # "$": behind what is there.
        self._positions = ["$" if address.shared else "0-0" for address in self._addresses]
        self._taken: list[list[str]] = [[] for _ in self._addresses]
        self._bell = _Doorbell(board)
        self._rung = False
        self._first = self._look()

    def wait(self, timeout: float, wakes: Sequence[int] = ()) -> list[tuple[Address, bytes]]:
        if self._first:
            first, self._first = self._first, []
            return first
        deadline = self._clock.monotonic() + timeout
        while True:
            if not self._bell.is_armed:
                if (self._rung or any(self._taken)) and (found := self._look()):
                    return found
                self._rung = True
                self._bell.arm(self._keys, self._positions, self._clock.monotonic())
            now = self._clock.monotonic()
            self._rung = True  # unless it is known to be otherwise: after a loss a look comes first
            self._rung, woken = self._bell.wait(deadline - now, wakes, now)
            if not self._rung and (woken or self._clock.monotonic() >= deadline):
                return []

    def close(self, *, broken: bool = False) -> None:
        self._bell.close()
        if any(self._taken) and not broken:
            try:
                self._look()
            except StoreError:
                pass  # all of it expires
            self._taken = [[] for _ in self._addresses]  # what that look found is for the next reader

    def _look(self) -> list[tuple[Address, bytes]]:
        """What came since the last look; what that gave of an inbox is removed."""
        given: list[str | int] = [BURST]
        for position, taken in zip(self._positions, self._taken, strict=True):
            given += [position, " ".join(taken)]
        answer = self._board.database.evaluate(_READ, self._keys, given)
        messages: list[tuple[Address, bytes]] = []
        for place, (position, found) in enumerate(answer):
            address = self._addresses[place]
            self._positions[place] = position.decode()
            self._taken[place] = [] if address.shared else [number.decode() for number in found[::2]]
            messages += [(address, body) for body in found[1::2]]
        self._rung = False
        return messages


class _Doorbell:
    """A connection on which the server answers as soon as there is something behind a position of a stream."""

    def __init__(self, board: RedisControlBoard) -> None:
        self._board = board
        self._client: Any = None
        self._armed_at: float | None = None

    @property
    def is_armed(self) -> bool:
        """Whether the server owes an answer."""
        return self._armed_at is not None

    def arm(self, keys: Sequence[str], positions: Sequence[str], now: float) -> None:
        """Have the server answer. ``now`` is the monotonic time. Raises :class:`StoreError`."""
        names = [self._board.database.key(key) for key in keys]
        words = [
            "XREAD",
            "COUNT",
            1,
            "BLOCK",
            int(timeouts.STORE_LINK_REDIS_WAIT * 1000),
            "STREAMS",
            *names,
            *positions,
        ]
        if self._client is None:
            self._client = self._board.database.run(_with_one_connection)
        connection = self._client.connection
        self._asked(partial(connection.send_packed_command, connection.pack_command(*words)))
        self._armed_at = now

    def wait(self, seconds: float, wakes: Sequence[int], now: float) -> tuple[bool, bool]:
        """Whether the server has answered, and whether one of ``wakes`` is readable; waits at most ``seconds`` for that."""
        connection = self._client.connection
        if not self._asked(partial(connection.can_read, timeout=0)):
            woken = self._woken(connection, seconds, wakes)
            # Not only by its descriptor: TLS has messages of its own.
            if not self._asked(partial(connection.can_read, timeout=0)):
                if self._armed_at is not None and now - self._armed_at > timeouts.STORE_LINK_REDIS_OVERDUE:
                    self.close()
                    raise StoreUnavailable(
                        f"control link {self._board.database.url}: no answer in {timeouts.STORE_LINK_REDIS_OVERDUE:g} s"
                    )
                return False, woken
        self._asked(connection.read_response)
        self._armed_at = None
        return True, False

    def close(self) -> None:
        """Let the connection go. May be called twice."""
        client, self._client, self._armed_at = self._client, None, None
        if client is not None:
            client.connection.disconnect()  # or its next user would get the answer that is owed to this one
            client.close()

    def _woken(self, connection: object, seconds: float, wakes: Sequence[int]) -> bool:
        # redis-py tells its socket by no public name. Without it the server is asked every now and then.
        if (sock := getattr(connection, "_sock", None)) is None:
            return not readable(wakes, min(seconds, timeouts.STORE_LINK_REDIS_SLICE)).isdisjoint(wakes)
        return not readable([sock, *wakes], seconds).isdisjoint(wakes)

    def _asked(self, operation: Callable[[], T]) -> T:
        try:
            return self._board.database.run(lambda _: operation(), repeat=False)
        except StoreError:
            self.close()
            raise


def _with_one_connection(client: Any) -> object:
    return client.client()


def _key(namespace: str, address: Address) -> str:
    # The same beginning as the keys of the revocations, so that one access rule covers both.
    return f"{{{namespace}}}:control:link:{address.name}"
