"""What dead consumers of Redis held comes back: messages that nobody renews, ours and Kombu's, and what workers of version
0.1.0 left in landings (see :mod:`stem_kombu.transports.redis.scripts`).

As Kombu's ``restore_visible`` does it, but by the server's clock, and never a message that was renewed after it was found
overdue: a worker whose renewal is taken holds the lease (G19). Any number may sweep at once: each message goes back in one
step, once.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from stem_kombu import timeouts
from stem_kombu.transports.giving_back import Swept
from stem_kombu.transports.payloads import NO_MESSAGE
from stem_kombu.transports.redis import scripts as redis_scripts

logger = logging.getLogger(__name__)

#: Between the two keys in the name of a landing; Kombu has it in the names of keys as well, but never doubled.
BETWEEN = "\x06\x16\x06\x16"
#: Messages of dead consumers that one sweep brings back, where no option says how many.
_RESTORED_AT_ONCE = 1000
#: Registrations looked at, and keys scanned for landings without one, in one sweep.
_AT_ONCE = 1000


class Sweeper:
    """Used by one thread. ``client`` is a raw client of the channel, which puts no prefix before keys."""

    def __init__(self, channel: Any, client: Any) -> None:
        self._channel = channel
        self._client = client
        self._prefix = channel.global_keyprefix
        self._keys = [self._prefix + channel.unacked_key, self._prefix + channel.unacked_index_key]
        self._registry = f"{self._keys[0]}-landings"
        self._passed, self._cursor = 0, 0
        self._rescue = client.register_script(redis_scripts.RESCUE)
        self._rescue_one = client.register_script(redis_scripts.RESCUE_ONE)
        self._overdue = client.register_script(redis_scripts.OVERDUE)
        self._restore = client.register_script(redis_scripts.RESTORE)

    def sweep(self) -> None:
        """Bring back what is overdue, a part at a time of what 0.1.0 left. Raises what the driver raises."""
        self._sweep_registered()
        self._sweep_unregistered()
        self._sweep_unacknowledged()

    def sweep_all(self) -> Swept:
        """Bring back all that is overdue. Raises what the driver raises."""
        self._passed = self._cursor = 0
        returned = self._sweep_registered()
        while self._passed:
            returned += self._sweep_registered()
        returned += self._sweep_unregistered()
        while self._cursor:
            returned += self._sweep_unregistered()
        looked_at = _RESTORED_AT_ONCE
        while looked_at:
            looked_at, step = self._sweep_unacknowledged()
            returned += step
        return Swept(returned, int(self._client.zcard(self._keys[1])))

    def _sweep_registered(self) -> int:
        lease = max(timeouts.REDIS_REGISTERED + 1, int(self._channel.visibility_timeout))
        kept, returned = self._rescue(
            keys=[self._registry], args=[lease, BETWEEN, timeouts.REDIS_REGISTRATION_KEPT, self._passed, _AT_ONCE]
        )
        self._passed = self._passed + kept if kept == _AT_ONCE else 0
        return int(returned)

    def _sweep_unregistered(self) -> int:
        """A wait that the server carries out after its landing was forgotten fills one that no registration names."""
        pattern = re.sub(r"([\[\]*?\\])", r"\\\1", f"{self._registry}:") + "*"
        self._cursor, found = self._client.scan(self._cursor, match=pattern, count=_AT_ONCE, _type="list")
        returned = 0
        names = self._client.zrange(self._registry, 0, -1) if found else ()
        for landing in set(found) - {name.partition(BETWEEN.encode())[0] for name in names}:
            left = 1
            while left and (text := self._client.lindex(landing, 0)) is not None:
                try:
                    message = json.loads(text)
                    info = message["properties"]["delivery_info"]
                    pushes = self._pushes(message, info.get("exchange") or "", info["routing_key"])
                except NO_MESSAGE as error:
                    logger.error("key %r holds what is no message, and keeps it: %r", landing, error)
                    break
                keys, args = [landing, *(queue for queue, _ in pushes)], [text, *(text for _, text in pushes)]
                left = self._rescue_one(keys=keys, args=args)
                returned += 1
        return returned

    def _sweep_unacknowledged(self) -> tuple[int, int]:
        """How many messages were overdue, and how many of them went back: the others were renewed, or are none."""
        wanted = [self._channel.visibility_timeout, self._channel.unacked_restore_limit or _RESTORED_AT_ONCE]
        tags = self._overdue(keys=self._keys[1:], args=wanted)
        return len(tags), sum(self._bring_back(tag) for tag in tags)

    def _bring_back(self, tag: bytes) -> bool:
        pushes: list[tuple[str, str]] = []
        if (entry := self._client.hget(self._keys[0], tag)) is not None:
            try:
                message, exchange, routing_key = json.loads(entry)
                pushes = self._pushes(message, exchange, routing_key)
            except NO_MESSAGE as error:
                shown = tag.decode("utf-8", "replace")
                logger.error("what %r holds is no message and is dropped: %r", shown, error)
        keys = [*self._keys, *(queue for queue, _ in pushes)]
        args = [self._channel.visibility_timeout, tag, *(text for _, text in pushes)]
        return bool(self._restore(keys=keys, args=args))

    def _pushes(self, message: Any, exchange: str, routing_key: str) -> list[tuple[str, str]]:
        """The key of each queue to which the message goes back, with the text for it. Raises one of :data:`NO_MESSAGE`."""
        if not isinstance(message, dict):
            raise TypeError(f"a {type(message).__name__}")
        channel, texts = self._channel, _Pushes()
        if not exchange:
            channel._do_restore_message(message, "", routing_key, texts, False)
        else:
            # Kombu would look for queues by the type that this process has declared the exchange with: it has not.
            for queue in sorted(self._bound_to(exchange, routing_key)) or [routing_key]:
                channel._do_restore_message(message, "", queue, texts, False)
        if not texts.made:
            raise ValueError("it names no queue")
        return [(self._prefix + queue, text) for queue, text in texts.made]

    def _bound_to(self, exchange: str, routing_key: str) -> set[str]:
        """The queues that the bindings of Kombu's direct, topic and fanout exchanges name."""
        table = self._channel.get_table(exchange)
        return {
            queue
            for bound, pattern, queue in table
            if bound == routing_key or (pattern and re.match(pattern, routing_key)) or not (bound or pattern)
        }


class _Pushes:
    """Stands where Kombu would have a pipeline, and keeps what it would push."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []

    def rpush(self, queue: str, text: str) -> None:
        self.made.append((queue, text))
