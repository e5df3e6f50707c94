"""Learning that a message came into one of many Redis lists, over one connection and without touching the lists.

The server tells a connection that has asked for some keys when one of them changes (client-side caching, Redis 6). So any
number of queues and priorities costs one connection and, while nothing comes, one command every few seconds. All that wait
for a queue are told of each message; who finds nothing waits for its turn, see :class:`Turns`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stem_kombu import chance, timeouts

if TYPE_CHECKING:
    from kombu.transport.redis import Channel

logger = logging.getLogger(__name__)


class QueueWatch:
    """Watches keys for one thread. ``client`` is a ``redis.Redis`` for the same thread whose commands go over the same
    connection and have no prefix. Every method raises what the driver raises when the connection is lost."""

    def __init__(self, channel: Channel, keys: Sequence[str]) -> None:
        import redis

        self._keys = list(keys)
        self._refusal = channel.ResponseError
        self._connection, self._tells = self._opened(channel.pool)
        self.client: Any = redis.Redis(connection_pool=channel.pool)
        self.client.connection = self._connection
        self._asked_at = float("-inf")
        self._pause = timeouts.REDIS_FIRST_LOOK
        self._quiet = False

    def follow(self, keys: Sequence[str]) -> None:
        """Watch these keys instead; they are looked at anew."""
        self._keys = list(keys)
        self._quiet = False

    @property
    def is_quiet(self) -> bool:
        """Whether all lists were empty when last looked at, and the server told of no change since."""
        if self._quiet and self._tells and self._connection.can_read(timeout=0):
            self._quiet = False
            self._pause = timeouts.REDIS_FIRST_LOOK
        return self._quiet

    def fileno(self) -> int | None:
        """What becomes readable when a list changes; ``None`` where the server does not tell."""
        return int(self._connection._sock.fileno()) if self._tells else None

    def due_in(self, now: float) -> float:
        """Seconds until the next look is due, at the monotonic time ``now``."""
        return (
            max(0.0, self._asked_at + (timeouts.REDIS_WATCH_TRUSTED if self._tells else self._pause) - now)
            if self._quiet
            else 0.0
        )

    def look(self, now: float) -> bool:
        """Whether there is a message in one of the lists; if not, the server tells of the next one."""
        if not self._keys:
            self._quiet, self._asked_at = True, now
            return False
        self._connection.send_command("EXISTS", *self._keys)
        self._pause = (
            timeouts.REDIS_FIRST_LOOK if not self._quiet else min(self._pause * 2, timeouts.REDIS_LONGEST_LOOK)
        )
        self._quiet = not self._connection.read_response()
        self._asked_at = now
        return not self._quiet

    def found_something(self) -> None:
        """A message was taken: more may be there."""
        self._quiet = False

    def close(self) -> None:
        self.client.connection = None  # or it would give the connection to the pool
        self._connection.disconnect()

    def _opened(self, pool: Any) -> tuple[Any, bool]:
        # Of the pool's kind, but not of the pool: what it is told must not meet another user's command.
        try:
            connection = pool.connection_class(**{**pool.connection_kwargs, "protocol": 3})
            connection.connect()
            connection.send_command("CLIENT", "TRACKING", "ON")
            connection.read_response()
        except (TypeError, self._refusal) as error:  # an old redis-py; a server or a right that is missing
            logger.info("the server does not notify of new messages, so the worker asks it twice a second: %s", error)
        else:
            return connection, True
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.connect()
        return connection, False


class Turns:
    """How long a worker that was told of a message, and found that another had taken it, waits before it looks again.

    Each such message in a row makes the pause longer. So a thousand idle workers cost the server about as much as ten, and
    a message still meets one whose pause is over.
    """

    def __init__(self) -> None:
        self._missed = 0

    def taken(self) -> None:
        """A message was there."""
        self._missed = 0

    def missed(self) -> float:
        """No message was there: seconds to wait."""
        self._missed += 1
        return chance.uniform(0.0, min(2 * timeouts.REDIS_OUTRUN_PAUSE * self._missed, timeouts.REDIS_OUTRUN_LONGEST))
