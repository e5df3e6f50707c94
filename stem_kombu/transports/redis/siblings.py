"""Lists at Redis that look like priorities of a queue and that nobody here reads.

A client of Celery with other ``priority_steps`` or another ``sep`` puts messages into lists of other names: a worker
without these options is ready, and they wait for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from stem_kombu.transports.redis.control_queues import raw_client

if TYPE_CHECKING:
    from kombu import Connection
    from kombu.transport.redis import Channel

logger = logging.getLogger(__name__)

#: What stands between a queue and a priority: Kombu's default, and what is usual.
_SEPARATORS = ("\x06\x16", ":", "-", "_", ".", "#", "/", "")
#: Celery's guide counts to 9, RabbitMQ's priorities to 255.
_USUAL_STEPS, _ALL_STEPS = range(10), range(256)
#: Of so many queues every step is looked for; of more, the usual ones.
_FEW = 4
#: KEYS: some keys. Returns the length of each that is a list, and 0 for the others. Keys in one call.
_LENGTHS = """
local lengths = {}
for i, key in ipairs(KEYS) do
  local length = redis.pcall('LLEN', key)
  lengths[i] = type(length) == 'number' and length or 0
end
return lengths
"""
_AT_ONCE = 2000
#: Sweeps between two looks: five minutes.
_SWEEPS = 30


def unread_lists(
    channel: Channel, client: Any, queues: Sequence[str], known: Collection[str] = ()
) -> dict[str, tuple[str, int]]:
    """The keys (without the prefix) of lists that look like priorities of these queues and are not read by a channel with
    these options, each with its queue and how many messages are in it.

    ``known`` are other queues, which are none. ``client`` puts no prefix before keys. Raises what the driver raises.
    """
    read = {channel._q_for_pri(queue, step) for queue in queues for step in channel.priority_steps} | set(known)
    names: dict[str, str] = {}
    for queue in queues:
        names.setdefault(queue, queue)
        for separator in dict.fromkeys((channel.sep, *_SEPARATORS)):
            every = len(queues) <= _FEW and separator in (channel.sep, *_SEPARATORS[:2])
            for step in _ALL_STEPS if every else _USUAL_STEPS:
                names.setdefault(f"{queue}{separator}{step}", queue)
    wanted = [name for name in names if name not in read]
    found: dict[str, tuple[str, int]] = {}
    for start in range(0, len(wanted), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        keys = [channel.global_keyprefix + name for name in part]
        if not client.execute_command("EXISTS", *keys):
            continue  # as nearly always: one command
        lengths = client.eval(_LENGTHS, len(keys), *keys)
        found |= {name: (names[name], length) for name, length in zip(part, lengths, strict=True) if length}
    return found


def unread_lists_of(connection: Connection, queues: Sequence[str], known: Collection[str] = ()) -> list[str]:
    """The same of a connected connection, each as a sentence; none on other transports. Raises what the driver raises."""
    if connection.transport.driver_type != "redis":
        return []
    channel: Any = connection.default_channel
    client = raw_client(channel)
    try:
        found = unread_lists(channel, client, queues, known)
    finally:
        client.close()
    return [_told(name, queue, length) for name, (queue, length) in found.items()]


class SiblingWatch:
    """Has the log name such lists, each once, when a worker begins to consume and every few minutes."""

    def __init__(self, look: Callable[[], dict[str, tuple[str, int]]]) -> None:
        self._look = look
        self._named: set[str] = set()
        self._sweeps = 0

    def sweep(self) -> None:
        """Called with each sweep. Raises what the driver raises."""
        self._sweeps += 1
        if self._sweeps % _SWEEPS != 1:
            return
        for name, (queue, length) in self._look().items():
            if name not in self._named:
                self._named.add(name)
                logger.warning("%s", _told(name, queue, length))


def _told(name: str, queue: str, length: int) -> str:
    return (
        f"list {name!r} holds {length} messages and looks like a priority of queue {queue!r}, but no worker with these options"
        " reads it: give workers the priority_steps and the sep of the clients that send (--broker-option)"
    )
