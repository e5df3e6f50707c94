"""How many messages the broker may send: one limit for the channel, or one for each new consumer.

RabbitMQ has 16 bits for a limit, quorum queues have none for a channel, and held etas alone may be more. A limit that is
each consumer's own counts only what that consumer was sent. So what is held is left to consumers that were cancelled, and
the next one gets a small window. Source: https://www.rabbitmq.com/docs/consumer-prefetch.
"""

from __future__ import annotations

from typing import Any

#: The largest limit: AMQP has 16 bits for it.
MOST = 65_535
#: A window is larger than what there is room for by this part of what is here, and by so many messages at most, so that
#: consuming anew, which takes round trips, stays rare.
_SPARE_PART, _MOST_SPARE = 10, 1000


class Prefetch:
    """Sets the limit of the connection that was opened last. Used by one thread; the attributes may be read by any."""

    def __init__(self) -> None:
        #: How many unacknowledged messages may be here.
        self.count = 0
        #: Whether the broker takes a limit for a whole channel.
        self.is_global = True
        self._consumers: Any = None
        self._counter: Any = None
        self._window: int | None = None

    def opened(self, consumers: object, counter: object) -> None:
        """A new connection, whose ``consumers`` do not consume yet; ``counter`` counts what they were sent."""
        self._consumers, self._counter, self._window = consumers, counter, None
        self.count = -1

    def allow(self, allowance: int, here: int, *, consuming: bool) -> None:
        """Let ``allowance`` messages be here, ``here`` of which are; raises what the driver raises."""
        if self._fits(allowance):
            if self._window is not None:
                self._consume_anew(None, consuming)
            if allowance != self.count:
                self._consumers.qos(prefetch_count=allowance, apply_global=True)
                self.count = allowance
        else:
            self.count = allowance
            room = max(0, allowance - here)
            if self._window is None or self._is_wrong(self._window - self._counter.outstanding, room, here):
                if self._window is None and self.is_global:
                    self._consumers.qos(prefetch_count=0, apply_global=True)
                # Not 0, which is no limit at all.
                self._consume_anew(max(1, min(MOST, room + _spare(here))), consuming)

    def _fits(self, allowance: int) -> bool:
        # Back to the other kind a good deal below the limit, lest a few messages more or less change it each time.
        return self.is_global and allowance <= (MOST if self._window is None else MOST * 3 // 4)

    def _is_wrong(self, left: int, room: int, here: int) -> bool:
        """Whether the consumer may be sent far less, or far more, than there is room for."""
        return (room > 0 and left <= room // 2) or left > 2 * room + _spare(here) + 1

    def _consume_anew(self, window: int | None, consuming: bool) -> None:
        if consuming:
            self._consumers.cancel()
        if window is not None or self._window is not None:
            self._consumers.qos(prefetch_count=window or 0, apply_global=False)
        self._window = window
        self._counter.count_anew()
        if consuming:
            self._consumers.consume()


def _spare(here: int) -> int:
    return min(_MOST_SPARE, here // _SPARE_PART)
