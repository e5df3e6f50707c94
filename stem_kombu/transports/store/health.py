"""Whether control messages arrive, for ``stem health``."""

from __future__ import annotations

from stem_kombu import chance, timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.errors import BrokerUnavailable
from stem_kombu.settings import Settings
from stem_kombu.transports import names
from stem_kombu.transports.connections import broker_connection
from stem_kombu.transports.control_link import Addresses
from stem_kombu.transports.registry import open_transport
from stem_kombu.transports.store.choice import STORE, fleet_control_link, place_of_control, store_link


def checked_control(settings: Settings, *, clock: Clock = SYSTEM) -> str:
    """What carries control messages, ``broker`` or ``store``. Of a store: after one has come back from it.

    Raises :class:`~stem_kombu.errors.BrokerUnavailable`, :class:`~stem_kombu.errors.ConfigurationError`, and
    :class:`~stem_kombu.errors.BroadcastUnsupported` where neither the broker nor the store can carry them.
    """
    transport = open_transport(broker_connection(settings), generic=settings.transport == "generic")
    if (place := place_of_control(transport, settings)) != STORE:
        if not transport.capabilities.carries_control:
            fleet_control_link(transport, settings, clock=clock).fans_out(
                timeouts.STORE_LINK_PROBE
            )  # refuses what a worker refuses
        return place
    owner = chance.token_hex(16)
    inbox = names.reply_name(settings.namespace, owner)
    link = store_link(settings, clock=clock)
    connection = link.open(
        Addresses(settings.namespace, owner, inbox=inbox),
        timeout=timeouts.STORE_LINK_PROBE,
        limit=timeouts.STORE_LINK_PROBE,
    )
    try:
        connection.send(inbox, b"", expires=timeouts.STORE_LINK_PROBE_EXPIRES)
        deadline = clock.monotonic() + timeouts.STORE_LINK_PROBE
        while not connection.wait(deadline - clock.monotonic()):
            if clock.monotonic() >= deadline:
                raise BrokerUnavailable(
                    f"{link.url}: a control message did not come back within {timeouts.STORE_LINK_PROBE:g} s"
                )
    finally:
        connection.close()
    return place
