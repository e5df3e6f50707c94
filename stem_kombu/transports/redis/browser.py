"""Looking into queues on Redis: LRANGE and SCAN, which change nothing and take no message from its list."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.drivers.redis import literal
from stem_kombu.transports.browsing import PAGE, BrowsingConnection, NoMessage
from stem_kombu.transports.names import is_control_name
from stem_kombu.transports.payloads import NO_MESSAGE, message_of
from stem_kombu.transports.redis.control_queues import raw_client

if TYPE_CHECKING:
    from kombu import Connection
    from kombu.transport.redis import Channel

#: Keys of one SCAN: a database may hold millions of records beside its queues.
_SCANNED = 2000


class RedisBrowser:
    """See :class:`~stem_kombu.transports.base.QueueBrowser`."""

    def __init__(self, template: Connection) -> None:
        self._browsing = BrowsingConnection(template)

    def queues(self) -> list[str]:
        found: set[str] = set()
        until, cursor = SYSTEM.monotonic() + timeouts.REDIS_QUEUE_SCAN, 0
        with self._open() as (channel, client):
            prefix = channel.global_keyprefix
            pattern = literal(prefix) + "*" if prefix else None
            while True:
                cursor, keys = client.scan(cursor, match=pattern, count=_SCANNED, _type="list")
                for key in keys:
                    name = key.decode("utf-8", "replace").removeprefix(prefix)
                    if not is_control_name(name) and _holds_messages(client, key):
                        found.add(_queue_of(channel, name))
                if not cursor or SYSTEM.monotonic() >= until:
                    return sorted(found)

    def first(self, queue: str, limit: int) -> list[object]:
        found: list[object] = []
        with self._open() as (channel, client):
            for key in _keys(channel, queue):
                if (left := limit - len(found)) > 0:
                    found += _entries(channel, queue, reversed(client.lrange(key, -left, -1)))
        return found

    def search(self, queue: str) -> Iterator[object]:
        # From the end to which senders push: what is taken meanwhile goes from the other end and shifts nothing, so that
        # no message that stays is passed over; what is pushed shifts the rest, so that some come twice.
        with self._open() as (channel, client):
            for key in _keys(channel, queue):
                start = 0
                while texts := client.lrange(key, start, start + PAGE - 1):
                    yield from (one for one in _entries(channel, queue, texts) if not isinstance(one, NoMessage))
                    start += len(texts)

    def refuse_other_keys(self, queue: str) -> None:
        """Raise :class:`~stem_kombu.errors.BrokerRefused` where a key of the queue holds no list."""
        with self._open() as (channel, client):
            for key in _keys(channel, queue):
                client.llen(key)

    def close(self) -> None:
        self._browsing.close()

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        with self._browsing.channel() as channel:
            client = raw_client(channel)
            try:
                yield channel, client
            finally:
                client.close()


def _keys(channel: Channel, queue: str) -> list[str]:
    """The lists of a queue, the most urgent first, as consumers take from them."""
    return [channel.global_keyprefix + channel._q_for_pri(queue, step) for step in channel.priority_steps]


def _entries(channel: object, queue: str, texts: Iterable[bytes]) -> Iterator[object]:
    for text in texts:
        try:
            entry = message_of(text, "", queue, channel)
        except NO_MESSAGE as error:
            entry = NoMessage.of(error)
        yield entry


def _queue_of(channel: Channel, name: str) -> str:
    """The queue of a list, which may be that of one priority."""
    for step in channel.priority_steps:
        if step and name.endswith(ending := f"{channel.sep}{step}"):
            return name.removesuffix(ending)
    return name


def _holds_messages(client: Any, key: bytes) -> bool:
    """Whether a message of Kombu's is at an end of the list: another program may keep lists in the same database."""
    for place in (-1, 0):
        with suppress(*NO_MESSAGE):
            if {"body", "properties"} <= json.loads(client.lindex(key, place)).keys():
                return True
    return False
