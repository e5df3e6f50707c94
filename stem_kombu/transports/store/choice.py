"""Which control link a fleet uses: the broker's own, or the one through the store."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from stem_kombu.clock import Clock
from stem_kombu.errors import BroadcastUnsupported
from stem_kombu.settings import Settings, TlsSettings
from stem_kombu.transports.base import Transport
from stem_kombu.transports.control_link import Addresses, ControlConnection, ControlLink
from stem_kombu.transports.store.registry import can_carry_control, open_control_board

if TYPE_CHECKING:
    from stem_kombu.transports.store.board import ControlBoard

BROKER, STORE, AUTO = "broker", "store", "auto"
#: Schemes of URLs that lead to other drivers: those need not be loaded to know it, which takes half a second.
_OTHER_SCHEMES = frozenset(
    [
        "sqla",
        "sqlalchemy",
        "sqs",
        "filesystem",
        "zookeeper",
        "etcd",
        "consul",
        "mongodb",
        "mongodb+srv",
        "confluentkafka",
        "gcpubsub",
        "azureservicebus",
        "azurestoragequeues",
        "pgmq",
        "pyro",
        "qpid",
        "slmq",
    ]
)


def needs_no_broker(settings: Settings) -> bool:
    """Whether control messages go through the store, as far as that can be told from the URLs alone."""
    scheme = settings.broker.value.partition("://")[0].lower()
    if scheme in _OTHER_SCHEMES or scheme.split("+")[0] in _OTHER_SCHEMES:
        return _place(False, settings) == STORE
    return settings.control_link == STORE


def place_of_control(transport: Transport, settings: Settings) -> str:
    """``broker`` or ``store``: what carries the control messages of a fleet on that broker.

    A broker that is not known to do so well is not tried where the store can carry them: to try means to make queues there,
    which most of these brokers never remove.
    """
    return _place(transport.capabilities.carries_control, settings)


def fleet_control_link(transport: Transport, settings: Settings, *, clock: Clock) -> ControlLink:
    """The control link of a fleet on that broker: the broker's own, or the one through the store.

    Raises :class:`ConfigurationError` for a store that is to carry control messages and can't.
    """
    if place_of_control(transport, settings) == STORE:
        return store_link(settings, clock=clock)
    link = transport.control(clock=clock)
    if settings.control_link == AUTO and not transport.capabilities.carries_control:
        return _OnlyWithFanout(link, transport.name, settings.revoke_store.name)
    return link


def store_link(settings: Settings, *, clock: Clock) -> ControlLink:
    """The control link through the revoke store. Raises :class:`ConfigurationError` for one that can't carry it."""
    store = settings.revoke_store
    return link_through(store.value, name=store.name, tls=settings.tls, clock=clock)


def link_through(url: str, *, name: str = "URL", tls: TlsSettings | None = None, clock: Clock) -> ControlLink:
    """The control link through the store of that URL, which came from the flag or variable ``name``."""
    from stem_kombu.transports.store.control import StoreControlLink  # which a broker that carries them does without

    make = partial(open_control_board, url, name=name, tls=tls, clock=clock)

    def open_board(namespace: str, patience: float) -> ControlBoard:
        return make(namespace, patience=patience)

    return StoreControlLink(make("").url, open_board)


def _place(carries_control: bool, settings: Settings) -> str:
    if settings.control_link != AUTO:
        return settings.control_link
    return BROKER if carries_control or not can_carry_control(settings.revoke_store.value) else STORE


class _OnlyWithFanout:
    """The link of a broker that nothing is known of, where the store can't help: refused unless the broker fans out."""

    def __init__(self, broker: ControlLink, driver: str, store: str) -> None:
        self._broker, self._driver, self._store = broker, driver, store
        self.url = broker.url

    def fans_out(self, timeout: float = 2.0) -> bool:
        if self._broker.fans_out(timeout):
            return True
        raise BroadcastUnsupported(
            f"broker {self.url}: transport {self._driver!r} does not send commands to all workers at once, and the revoke store"
            f" ({self._store}) can't carry them",
            hint="set STEM_REVOKE_STORE_URL to a redis://, postgresql:// or sqlite:// URL, or STEM_CONTROL_LINK=broker for"
            " commands through queues at this broker, which is slow",
        )

    def open(self, addresses: Addresses, *, timeout: float, limit: float, confirms: bool = False) -> ControlConnection:
        return self._broker.open(addresses, timeout=timeout, limit=limit, confirms=confirms)
