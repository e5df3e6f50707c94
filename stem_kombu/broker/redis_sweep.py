"""What dead consumers of Redis held comes back: messages that nobody renews, ours and Kombu's, and what landed at ours.

As Kombu's ``restore_visible`` does it, one consumer at a time, but by the server's clock, and never a message that was
renewed after it was found overdue: a worker whose renewal is taken holds the lease (G19).
"""

from __future__ import annotations

import json
import logging
from typing import Any

from stem_kombu.broker import redis_scripts

logger = logging.getLogger(__name__)

#: Between the two keys in the name of a landing; Kombu has it in the names of keys as well, but never doubled.
BETWEEN = "\x06\x16\x06\x16"
#: Messages of dead consumers that one sweep brings back, where no option says how many.
_RESTORED_AT_ONCE = 1000


class Sweeper:
    """Used by one thread. ``registry`` is the key of the landings, ``lease`` their seconds."""

    def __init__(self, channel: Any, client: Any, registry: str, lease: int) -> None:
        self._channel = channel
        self._client = client
        self._registry, self._lease = registry, lease
        self._prefix = channel.global_keyprefix
        self._keys = [self._prefix + channel.unacked_key, self._prefix + channel.unacked_index_key]
        self._rescue = client.register_script(redis_scripts.RESCUE)
        self._overdue = client.register_script(redis_scripts.OVERDUE)
        self._restore = client.register_script(redis_scripts.RESTORE)

    def sweep(self) -> None:
        """Bring back what is overdue. Raises what the driver raises."""
        from kombu.transport.redis import Mutex, MutexHeld

        self._rescue(keys=[self._registry], args=[self._lease, BETWEEN])
        channel = self._channel
        with channel.conn_or_acquire() as client:
            try:
                with Mutex(client, channel.unacked_mutex_key, channel.unacked_mutex_expire):
                    wanted = [channel.visibility_timeout, channel.unacked_restore_limit or _RESTORED_AT_ONCE]
                    for tag in self._overdue(keys=self._keys[1:], args=wanted):
                        self._bring_back(tag)
            except MutexHeld:
                pass  # another consumer is at it

    def _bring_back(self, tag: bytes) -> None:
        pushes = _Pushes()
        if (entry := self._client.hget(self._keys[0], tag)) is not None:
            try:
                message, exchange, routing_key = json.loads(entry)
                if not isinstance(message, dict):
                    raise TypeError(f"a {type(message).__name__}")
            except (ValueError, TypeError, RecursionError) as error:
                logger.error("what %r holds is no message and is dropped: %r", tag.decode("utf-8", "replace"), error)
            else:
                self._channel._do_restore_message(message, exchange, routing_key, pushes, False)
        self._restore(
            keys=[*self._keys, *(self._prefix + queue for queue, _ in pushes.made)],
            args=[self._channel.visibility_timeout, tag, *(text for _, text in pushes.made)],
        )


class _Pushes:
    """Stands where Kombu would have a pipeline, and keeps what it would push."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []

    def rpush(self, queue: str, text: str) -> None:
        self.made.append((queue, text))
