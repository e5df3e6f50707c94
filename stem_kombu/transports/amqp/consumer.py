"""Task queues on AMQP, taken in as they are pushed, with acknowledgements that go out together.

Used by one thread. The broker pushes as much as the prefetch count allows; :meth:`AmqpConsumer.take` hands over all that has
arrived, so that a burst of short tasks costs one turn of its consumer and not one each.
"""

from __future__ import annotations

import select
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.concurrency.wakeup import wait_readable
from stem_kombu.transports.amqp.frame_writer import FrameWriter, channel_number
from stem_kombu.transports.amqp.frames import AmqpFrames
from stem_kombu.transports.amqp.kombu_messages import make_messages_quickly
from stem_kombu.transports.amqp.message_frames import ack_frame
from stem_kombu.transports.amqp.prefetch import Prefetch
from stem_kombu.transports.base import ScheduledMessages
from stem_kombu.transports.connections import pulse
from stem_kombu.transports.queues import KombuConsumers, declared_task_queue, forsake

if TYPE_CHECKING:
    from socket import socket

    from kombu import Connection, Message

#: What a peer that has gone shows as, before the rest of what it sent is read; not every system tells of the first.
_HANGUP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class AmqpConsumer:
    """Implements :class:`~stem_kombu.transports.base.TaskConsumer` over a connected AMQP connection, which it closes.

    Every method raises what the driver raises when the connection is lost; then everything that was not acknowledged is
    the broker's again."""

    sweep_interval = 1.0
    #: Seconds between two turns while messages keep coming. Short: the broker sends no more than the prefetch count before
    #: it hears what is done, and a slot that waits for that costs more than a turn, which is two system calls.
    gather, gather_stocked = 0.0002, timeouts.GATHER
    pushes = True
    #: AMQP counts tags anew in each connection.
    keeps_tags = False
    receives_in_wait = False
    scheduled: ScheduledMessages | None = None
    #: Messages that arrived since :meth:`count_anew` and are not settled.
    outstanding = 0
    _counted_after = 0

    def __init__(
        self, connection: Connection, queues: Sequence[str], *, prefetch: Prefetch | None = None, clock: Clock = SYSTEM
    ) -> None:
        self._connection = connection
        declared = [declared_task_queue(connection, queue) for queue in queues]
        self._channel = make_messages_quickly(connection.default_channel)
        self._consumers = KombuConsumers(self._channel, declared, self.arrived)
        self._prefetch = Prefetch() if prefetch is None else prefetch
        self._prefetch.opened(self._consumers, self)
        self._amqp: object = connection.connection
        self._socket: socket = self._amqp.sock
        # Once, and not around each frame as py-amqp does when the socket has another.
        self._socket.settimeout(timeouts.FRAME_REST)
        self._take_in, self._writer = AmqpFrames(self._amqp, self._channel).take_in, FrameWriter(self._amqp)
        self._clock = clock
        self._arrived: list[Message] = []
        # In the order of delivery, in which a channel counts its tags.
        self._unsettled: dict[int, None] = {}
        self._more_to_read = True

    def arrived(self, message: Message) -> None:
        """Called by Kombu's consumers."""
        self._unsettled[message.delivery_tag] = None
        self.outstanding += 1
        self._arrived.append(message)

    def consume(self) -> None:
        self._consumers.consume()

    def pause(self, queues: Collection[str]) -> None:
        self._consumers.pause(queues)

    def allow(self, allowance: int, here: int, *, consuming: bool) -> None:
        self._prefetch.allow(allowance, here, consuming=consuming)

    def count_anew(self) -> None:
        """What arrives from now on is another consumer's, whose limit is about nothing else."""
        self._counted_after = max(self._counted_after, next(reversed(self._unsettled), 0))
        self.outstanding = 0

    def take(self, room: int, acknowledged: Sequence[int] = ()) -> list[Message]:
        """What has arrived, as Kombu messages; those of the tags in ``acknowledged`` are acknowledged. How many come is
        bounded by the prefetch count, not by ``room``."""
        self._acknowledge(acknowledged)
        self._more_to_read = self._take_in()
        messages, self._arrived = self._arrived, []
        return messages

    def wait(self, wake: int, timeout: float, *, more: bool) -> None:
        """Return when there is something to read, when ``wake`` is readable, or after ``timeout`` seconds."""
        if self._more_to_read:
            return
        wait_readable(self._socket, wake, timeout)

    @property
    def is_cut(self) -> bool:
        """Whether the broker or the network has ended the connection, though that was not read yet. From any thread."""
        poller = select.poll()
        try:
            poller.register(self._socket, _HANGUP)
            return bool(poller.poll(0))
        except (OSError, ValueError):
            return True  # it is closed at this end

    def wake(self) -> None:
        """It looks at the descriptor."""

    def reject(self, tag: int) -> None:
        self._settle(tag)
        self._channel.basic_reject(tag, requeue=False)

    def give_back(self, tag: int) -> None:
        self._settle(tag)
        self._channel.basic_reject(tag, requeue=True)

    def settled(self, tag: int) -> None:
        self._settle(tag)

    def rest(self) -> None:
        """What has been pushed already is given back by the broker when the connection ends."""
        self._consumers.cancel()

    def sweep(self) -> None:
        """Send the heartbeat that is due."""
        pulse(self._connection, clock=self._clock)

    def close(self, *, keep: bool) -> None:
        forsake(self._connection, keep=keep)

    def _acknowledge(self, tags: Sequence[int]) -> None:
        """All up to a tag in one frame where nothing before it is still at work, the others one by one; in one write."""
        if not tags:
            return
        done = set(tags)
        together = 0
        for tag in self._unsettled:
            if tag not in done:
                break
            together = tag
        number = channel_number(self._channel)
        frames = [ack_frame(number, tag, multiple=False) for tag in tags if tag > together]
        if together:
            frames.append(ack_frame(number, together, multiple=True))
        for tag in tags:
            self._settle(tag)
        self._writer.write(b"".join(frames), timeouts.FRAME_REST)

    def _settle(self, tag: int) -> None:
        if tag in self._unsettled:
            del self._unsettled[tag]
            self.outstanding -= tag > self._counted_after
