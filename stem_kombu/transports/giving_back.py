"""What dead workers hold at a broker, given back to its queues without a worker: for a fleet that leaves Stem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.transports.connections import connect, release
from stem_kombu.transports.errors import broker_errors
from stem_kombu.transports.leases import EMBEDDED_DRIVER
from stem_kombu.transports.redis.control_queues import raw_client
from stem_kombu.transports.redis.recovery import Sweeper

if TYPE_CHECKING:
    from kombu import Connection

#: Seconds between two looks at leases that are still running.
_BETWEEN = 0.5
#: What happens by itself on other transports.
_BY_ITSELF = {
    "amqp": "RabbitMQ gave back what a dead worker held when the worker's connection ended: there is nothing to do",
    EMBEDDED_DRIVER: "the embedded broker gives back what a dead process held to the next consumer: there is nothing to do",
    "SQS": "SQS gives back what a dead worker held when its visibility timeout is over: there is nothing to do",
}


@dataclass(frozen=True, slots=True)
class GivenBack:
    """``returned``: messages that are in their queues again. ``leased``: those that a worker still holds, one that lives or one
    that died less than ``lease`` seconds ago. ``note``: what there is to say of a transport on which nothing is swept."""

    transport: str
    returned: int = 0
    leased: int = 0
    lease: float | None = None
    note: str | None = None


def give_back_held(
    connection: Connection,
    *,
    wait: float = 0.0,
    on_wait: Callable[[GivenBack], None] = lambda _: None,
    clock: Clock = SYSTEM,
) -> GivenBack:
    """What dead workers held goes back to its queues, where any consumer sees it, Celery's too.

    A worker that lives keeps what it renews. With ``wait`` the leases that still run are waited for so many seconds.
    ``connection`` is a template. Raises :class:`~stem_kombu.errors.BrokerUnavailable`.
    """
    driver = str(connection.transport.driver_type)
    mine: Any = connection.clone()
    connect(mine)
    try:
        if driver != "redis":
            said = _BY_ITSELF.get(
                driver, f"transport {driver!r} keeps no list of what a dead worker held: it can't be given back here"
            )
            return GivenBack(driver, note=said)
        with broker_errors(mine, "giving back what dead workers held"):
            channel = mine.default_channel
            client = raw_client(channel)
            try:
                return _swept(Sweeper(channel, client), float(channel.visibility_timeout), wait, on_wait, clock)
            finally:
                client.close()
    finally:
        release(mine)


def _swept(
    sweeper: Sweeper, lease: float, wait: float, on_wait: Callable[[GivenBack], None], clock: Clock
) -> GivenBack:
    until, returned = clock.monotonic() + wait, 0
    while True:
        swept = sweeper.sweep_all()
        returned += swept.returned
        found = GivenBack("redis", returned, swept.leased, lease)
        if not swept.leased or clock.monotonic() >= until:
            return found
        on_wait(found)
        clock.sleep(min(_BETWEEN, max(0.0, until - clock.monotonic())))
