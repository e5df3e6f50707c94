"""The limit that a broker is given, also where it is more than AMQP's 16 bits."""

from __future__ import annotations

from typing import Any

import pytest

from stem_kombu.transports.amqp.prefetch import MOST, Prefetch


class Broker:
    """RabbitMQ as far as limits go: one for the channel, one that each new consumer keeps, and what was sent by either."""

    def __init__(self) -> None:
        self.limit = self.next_window = self.window = 0
        self.held = self.outstanding = self.consumers = 0
        self.counts: list[int] = []

    def qos(self, prefetch_count: int, apply_global: bool) -> None:
        assert 0 <= prefetch_count <= 0xFFFF
        self.counts.append(prefetch_count)
        if apply_global:
            self.limit = prefetch_count
        else:
            self.next_window = prefetch_count

    def consume(self) -> None:
        self.consumers += 1
        self.window = self.next_window

    def cancel(self) -> None:
        pass

    def count_anew(self) -> None:
        self.outstanding = 0

    def sends(self, most: int) -> int:
        """Send as many messages as the limits allow, and no more than ``most``."""
        room = [most]
        if self.limit:
            room.append(self.limit - self.held)
        if self.window:
            room.append(self.window - self.outstanding)
        count = max(0, min(room))
        self.held += count
        self.outstanding += count
        return count


@pytest.mark.parametrize("is_global", [True, False])
def test_any_number_is_held_and_what_is_ready_still_comes(is_global: bool) -> None:
    broker: Any = Broker()
    prefetch = Prefetch()
    prefetch.is_global = is_global
    base, etas = 8, 100_000
    prefetch.opened(broker, broker)
    prefetch.allow(base, 0, consuming=False)
    broker.consume()
    while broker.held < etas:
        # All that comes is held for its eta, so that as much may come beside it as before.
        assert broker.sends(1000) > 0, broker.held
        prefetch.allow(base + broker.held, broker.held, consuming=True)
    assert prefetch.count == base + broker.held > MOST
    assert broker.sends(10_000) >= base // 2  # what is ready
    assert broker.consumers < 1000
    broker.held = broker.outstanding = 100
    prefetch.allow(base + 100, 100, consuming=True)
    assert broker.sends(10_000) <= base + 20  # and one limit again, or a small window


def test_a_limit_for_the_channel_is_said_when_it_changes_and_only_then() -> None:
    broker: Any = Broker()
    prefetch = Prefetch()
    prefetch.opened(broker, broker)
    prefetch.allow(8, 0, consuming=False)
    for allowance in (8, 9, 9, 8):
        prefetch.allow(allowance, 3, consuming=True)
    assert broker.counts == [8, 9, 8]
