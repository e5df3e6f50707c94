"""Task queues on Redis, read by Kombu itself: message by message, and with the moment in which a kill loses one (G18)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stem_kombu.transports.generic.consumer import GenericConsumer

if TYPE_CHECKING:
    from kombu.transport.redis import Channel


class OneByOneConsumer(GenericConsumer):
    """What is generic, and what Redis keeps beyond a connection."""

    keeps_tags = True

    def give_back(self, tag: object) -> None:
        give_back(self._channel, tag)


def give_back(channel: Channel, tag: object) -> None:
    """Put an unacknowledged message at the head of its queue. Raises what the driver raises."""
    from kombu.transport.virtual import QoS

    # Kombu's reject would put it behind everything that waits.
    channel.qos.restore_by_tag(tag, leftmost=False)
    QoS.ack(channel.qos, tag)
