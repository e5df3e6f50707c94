"""What one channel consumes, has leased and has not yet acknowledged."""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest

from stem_kombu.clock import SYSTEM
from stem_kombu.transports.names import unreadable_queue_name
from stem_kombu.transports.sqlite import messages, topology
from stem_kombu.transports.sqlite.kombu_types import ConsumerCancelled, NotAllowed, PreconditionFailed
from stem_kombu.transports.sqlite.messages import Delivery
from stem_kombu.transports.sqlite.session import Session

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A consumer: whoever gets the messages of a queue."""

    tag: str
    queue: str
    queue_id: int
    no_ack: bool
    callback: Callable[[dict[str, object]], object]


class Deliveries:
    """Subscriptions, the messages leased for them, and the credit between the two. Safe from any thread.

    Messages are leased in bursts of at most the free credit and handed out one by one. A ``no_ack`` message is
    acknowledged when it is handed out.
    """

    def __init__(self, session: Session, channel_id: int) -> None:
        self._session = session
        self._channel_id = channel_id
        self._subscriptions: dict[str, Subscription] = {}
        self._queues: dict[int, deque[Subscription]] = {}
        self._inbox: deque[tuple[int, Delivery]] = deque()
        self._unacked: dict[str, tuple[int, int]] = {}
        self._seen: tuple[int, int] | None = None
        self.prefetch = 0

    @property
    def session(self) -> Session:
        return self._session

    # -- consumers

    def subscribe(self, queue: str, tag: str, no_ack: bool, callback: Callable[[dict[str, object]], object]) -> None:
        """Consume from the queue from the next drain on. Raises ``NotFound``, ``ResourceLocked`` or ``NotAllowed``."""
        with self._session.lock:
            if tag in self._subscriptions:
                raise NotAllowed(
                    f"NOT_ALLOWED - consumer tag {tag!r} is in use on this channel", (60, 20), "Channel.basic_consume"
                )
            owner_id = self._session.own()
            with self._session.write() as sql:
                queue_id = topology.find_queue(sql, queue, "Channel.basic_consume", owner_id)
                topology.add_consumer(sql, queue_id, owner_id, self._channel_id, tag)
            subscription = Subscription(tag, queue, queue_id, no_ack, callback)
            self._subscriptions[tag] = subscription
            self._queues.setdefault(queue_id, deque()).append(subscription)
            self._seen = None
        self._session.wake_up.set()

    def cancel(self, tag: str) -> None:
        """Stop consuming; what was leased but not handed out is ready again. An unknown tag is fine."""
        session = self._session
        with session.lock:
            subscription = self._subscriptions.pop(tag, None)
            if subscription is None:
                return
            back = self._drop(subscription)
            owner_id = session.own()

            def leave(sql: sqlite3.Connection) -> None:
                _give_back(sql, back)
                topology.remove_consumers(sql, owner_id, SYSTEM.now(), channel=self._channel_id, tag=tag)

            session.do(leave)

    def forget_queue(self, queue_id: int) -> None:
        """This channel deleted the queue: its consumers there end without a word."""
        with self._session.lock:
            for subscription in list(self._queues.get(queue_id, ())):
                del self._subscriptions[subscription.tag]
                self._drop(subscription)

    def _drop(self, subscription: Subscription) -> list[tuple[int, int]]:
        """Take the subscription out; returns the deliveries that nobody here is left to take."""
        queue = self._queues[subscription.queue_id]
        queue.remove(subscription)
        if queue:
            return []
        del self._queues[subscription.queue_id]
        back = [(d.id, d.tries) for queue_id, d in self._inbox if queue_id == subscription.queue_id]
        self._inbox = deque(item for item in self._inbox if item[0] != subscription.queue_id)
        return back

    # -- receiving

    def next(self) -> tuple[Subscription, dict[str, object]] | None:
        """The next message and its consumer; ``None`` when there is none or no credit.

        Raises ``ConsumerCancelled`` when a queue that is consumed here has been deleted.
        """
        with self._session.lock:
            while self._inbox or self._fetch():
                queue_id, delivery = self._inbox.popleft()
                consumers = self._queues[queue_id]
                consumers.rotate(-1)
                payload = self._taken(delivery, consumers[0].queue, consumers[0].no_ack, consumers[0].tag)
                if payload is not None:
                    return consumers[0], payload
            return None

    def get(self, queue: str, no_ack: bool) -> dict[str, object] | None:
        """One message of the queue at once, ``None`` when there is none. Counts as use of the queue."""
        session = self._session
        with session.lock:
            owner_id = session.own()
            while True:
                queue_id, worth_writing = session.query(self._look_at, queue, owner_id)
                now = SYSTEM.now()
                if not worth_writing:
                    return None
                with session.write() as sql:
                    session.require_owner(sql)
                    messages.promote(sql, now)
                    topology.touch_queue(sql, queue_id, now)
                    leased = messages.lease(sql, queue_id, owner_id, 1, now)
                if not leased:
                    return None
                payload = self._taken(leased[0], queue, no_ack, None)
                if payload is not None:
                    return payload

    def call_in(self, wanted: Callable[[str], bool], after: int) -> int:
        """See :meth:`stem_kombu.transports.sqlite.channel.Channel.call_in`."""
        session = self._session
        with session.lock:
            found, after = session.query(messages.scheduled, self._queues, after, wanted)
            if found:
                owner_id = session.own()
                with session.write() as sql:
                    session.require_owner(sql)
                    leased = [(queue, messages.lease_scheduled(sql, each, owner_id)) for queue, each in found]
                self._inbox.extend((queue, delivery) for queue, delivery in leased if delivery is not None)
        return after

    @staticmethod
    def _look_at(sql: sqlite3.Connection, queue: str, owner_id: int) -> tuple[int, bool]:
        now = SYSTEM.now()
        queue_id = topology.find_queue(sql, queue, "Channel.basic_get", owner_id)
        due = messages.next_due(sql)
        worth = (
            messages.any_ready(sql, queue_id, now)
            or (due is not None and due <= now)
            or topology.wants_touching(sql, queue_id, now)
        )
        return queue_id, worth

    def _taken(
        self, delivery: Delivery, queue: str, no_ack: bool, consumer_tag: str | None
    ) -> dict[str, object] | None:
        try:
            payload = delivery.payload(consumer_tag)
        except messages.UNREADABLE as error:
            self._put_aside(delivery.id, delivery.tries, queue, error)
            return None
        if no_ack:
            self._session.settle(delivery.id, delivery.tries)
        else:
            self._unacked[delivery.tag] = (delivery.id, delivery.tries)
        return payload

    def _fetch(self) -> bool:
        """Lease what the credit allows; whether that was anything."""
        if not self._queues:
            return False
        session = self._session
        mark = session.mark()
        if mark == self._seen:
            return False
        hungry, now = self._hungry(), SYSTEM.now()
        if not hungry:
            return False
        if not session.settlements_wait:
            # Becoming a writer for nothing would slow down those who have something to write.
            ready, session.next_due = session.query(self._look, hungry, now)
            if not ready:
                self._seen = mark
                return False
        with session.write() as sql:
            session.require_owner(sql)
            self._cancel_deleted(sql)
            batches, exhausted = self._lease(sql, hungry, now)
            session.next_due = messages.next_due(sql)
        self._seen = mark if exhausted else None
        # Queues take turns, whatever their lengths.
        self._inbox.extend(item for item in chain.from_iterable(zip_longest(*batches)) if item is not None)
        return bool(self._inbox)

    def _hungry(self) -> dict[int, bool]:
        """Queues that may be fetched from, and whether that takes credit; the one to begin with changes."""
        first = next(iter(self._queues))
        self._queues[first] = self._queues.pop(first)
        credit = self._credit()
        takes = {queue_id: not all(s.no_ack for s in consumers) for queue_id, consumers in self._queues.items()}
        return {queue_id: takes_credit for queue_id, takes_credit in takes.items() if credit > 0 or not takes_credit}

    def has_credit(self) -> bool:
        """Whether another message may be delivered."""
        return self._credit() > 0

    def _credit(self) -> int:
        return self.prefetch - len(self._unacked) if self.prefetch else self._session.options.fetch_limit

    def _look(self, sql: sqlite3.Connection, queues: Iterable[int], now: float) -> tuple[bool, float | None]:
        self._cancel_deleted(sql)
        return any(messages.any_ready(sql, queue_id, now) for queue_id in queues), messages.next_due(sql)

    def _lease(
        self, sql: sqlite3.Connection, hungry: dict[int, bool], now: float
    ) -> tuple[list[list[tuple[int, Delivery]]], bool]:
        """What was leased, by queue, and whether the queues had no more."""
        owner_id = self._session.own()
        credit, exhausted = self._credit(), True
        batches = {queue_id: list[tuple[int, Delivery]]() for queue_id in hungry}
        sharing = sum(hungry.values())
        share = max(1, credit // sharing) if sharing else 0
        turns = deque(hungry)
        while turns:
            queue_id = turns.popleft()
            limit = min(share, credit) if hungry[queue_id] else self._session.options.fetch_limit
            if limit == 0:
                exhausted = False
                continue
            leased = messages.lease(sql, queue_id, owner_id, limit, now)
            batches[queue_id].extend((queue_id, delivery) for delivery in leased)
            if hungry[queue_id]:
                credit -= len(leased)
                if len(leased) == limit:
                    turns.append(queue_id)
            elif len(leased) == limit:
                exhausted = False
        return list(batches.values()), exhausted

    def _cancel_deleted(self, sql: sqlite3.Connection) -> None:
        for queue_id, consumers in list(self._queues.items()):
            if not topology.queue_exists(sql, queue_id):
                name = consumers[0].queue
                self.forget_queue(queue_id)
                raise ConsumerCancelled(
                    f"queue {name!r} was deleted while it was consumed", (60, 30), "Channel.basic_cancel"
                )

    # -- settling

    def acknowledge(self, tag: str, *, multiple: bool = False) -> None:
        """Remove the delivery (with ``multiple``, all up to it) now or within milliseconds.

        Raises ``PreconditionFailed`` for a tag that is not outstanding here.
        """
        with self._session.lock:
            for message_id, tries in self._taken_out(tag, multiple, "Channel.basic_ack"):
                self._session.settle(message_id, tries)

    def put_aside(self, tag: str, queue: str, error: Exception) -> None:
        """Move a delivery of the queue that can't be read into a queue of its own."""
        with self._session.lock:
            self._put_aside(*self._taken_out(tag, False, "Channel.basic_reject")[0], queue, error)

    def _put_aside(self, message_id: int, tries: int, queue: str, error: Exception) -> None:
        name = unreadable_queue_name(queue)
        logger.error("embedded broker: message %d can't be read, and goes to queue %s: %r", message_id, name, error)
        self._session.do(lambda sql: messages.put_aside(sql, message_id, tries, name, SYSTEM.now()))

    def requeue(self, tag: str) -> None:
        """Make the delivery ready again at its old place; ``PreconditionFailed`` for a tag that is not outstanding."""
        with self._session.lock:
            self._return(self._taken_out(tag, False, "Channel.basic_reject"))

    def recover(self) -> None:
        """Make everything ready again that is outstanding."""
        with self._session.lock:
            back = list(self._unacked.values())
            self._unacked.clear()
            self._return(back)

    def extend(self, tag: str, seconds: float) -> bool:
        """Keep the delivery leased for that long at least; ``False`` when the lease is lost or the tag unknown."""
        with self._session.lock:
            held = self._unacked.get(tag)
            if held is None:
                return False
            owner_id = self._session.own()
            with self._session.write() as sql:
                return messages.extend(sql, *held, owner_id, SYSTEM.now() + seconds)

    def close(self) -> None:
        """End every consumer and make ready what is held."""
        session = self._session
        with session.lock:
            back = [*self._unacked.values(), *((d.id, d.tries) for _, d in self._inbox)]
            had_consumers = bool(self._subscriptions)
            self._subscriptions.clear()
            self._queues.clear()
            self._inbox.clear()
            self._unacked.clear()
            if not (back or had_consumers) or not session.usable:
                return
            owner_id = session.own()

            def leave(sql: sqlite3.Connection) -> None:
                _give_back(sql, back)
                topology.remove_consumers(sql, owner_id, SYSTEM.now(), channel=self._channel_id)

            session.do(leave)

    def _return(self, back: list[tuple[int, int]]) -> None:
        if back:
            self._seen = None
            self._session.do(partial(_give_back, back=back))

    def _taken_out(self, tag: str, multiple: bool, method: str) -> list[tuple[int, int]]:
        if multiple and not tag:
            taken = list(self._unacked)
        elif tag not in self._unacked:
            raise PreconditionFailed(f"PRECONDITION_FAILED - unknown delivery tag {tag!r}", (60, 80), method)
        elif multiple:
            tags = list(self._unacked)
            taken = tags[: tags.index(tag) + 1]
        else:
            taken = [tag]
        return [self._unacked.pop(each) for each in taken]


def _give_back(sql: sqlite3.Connection, back: list[tuple[int, int]]) -> None:
    for message_id, tries in back:
        messages.give_back(sql, message_id, tries)
