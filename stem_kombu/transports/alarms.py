"""RabbitMQ's resource alarms: while memory or disk runs short it takes no messages, and delivers them all the same.

It reads nothing more from a connection that sends a message then, and says so (``connection.blocked``); what lies there
unread is published when the alarm is over, also if the sender has gone, unless a heartbeat found that out before. Source:
https://www.rabbitmq.com/docs/connection-blocked.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stem_kombu import chance

if TYPE_CHECKING:
    from kombu import Connection

#: What an operator is told.
BLOCKED = "blocked by a resource alarm: RabbitMQ is short of memory or disk, delivers messages and takes none"
BLOCKED_HINT = "'rabbitmqctl status' names the alarm; free memory or disk there, or let workers drain the queues"


class _Alarm:
    def __init__(self, before: Callable[[str], object] | None) -> None:
        self.is_on = False
        self._before = before

    def raised(self, reason: str) -> None:
        self.is_on = True
        if self._before is not None:  # the application's own
            self._before(reason)

    def cleared(self) -> None:
        self.is_on = False


_alarms: weakref.WeakKeyDictionary[object, _Alarm] = weakref.WeakKeyDictionary()


def watch(connection: Connection) -> None:
    """Notice from now on what the broker says to this connection, which is connected; nothing on other transports."""
    amqp: Any = connection.connection
    if connection.transport.driver_type == "amqp" and amqp not in _alarms and hasattr(amqp, "on_blocked"):
        alarm = _alarms[amqp] = _Alarm(amqp.on_blocked)
        amqp.on_blocked = alarm.raised
        if amqp.on_unblocked is None:
            amqp.on_unblocked = alarm.cleared


def is_blocked(connection: Connection) -> bool:
    """Whether the broker has said, as far as that was read, that it takes no messages from this connection."""
    if not connection.connected or connection.transport.driver_type != "amqp":
        return False
    alarm = _alarms.get(connection.connection)
    return alarm is not None and alarm.is_on


def takes_messages(connection: Connection, timeout: float) -> bool:
    """Whether the broker takes a message, one that no queue gets; ``False`` only when it says that it does not.

    On a channel of its own, since a refusal would close it. Raises what the driver raises for a lost connection.
    """
    channel: Any = connection.channel()
    confirmed: list[int] = []
    try:
        channel.confirm_select()
        channel.events["basic_ack"].add(lambda tag, multiple: confirmed.append(tag))
        nothing = channel.prepare_message(b"", properties={"delivery_mode": 1})
        for _ in range(2):  # the first is taken, and may be confirmed before the broker says that it takes no more
            key = f"stem-probe-{chance.token_hex(8)}"
            channel.basic_publish(nothing, exchange="", routing_key=key, timeout=timeout)
        while max(confirmed, default=0) < 2 and not is_blocked(connection):
            connection.drain_events(timeout=timeout)
    except (TimeoutError, *connection.channel_errors):
        pass
    finally:
        if not is_blocked(connection):
            connection.maybe_close_channel(channel)
    return not is_blocked(connection)
