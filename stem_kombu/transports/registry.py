"""Which implementation a broker gets: the only place that knows a driver by its name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from stem_kombu.errors import ConfigurationError
from stem_kombu.transports.base import Transport

if TYPE_CHECKING:
    from kombu import Connection

#: Plug-ins register here: the entry point's name is Kombu's driver type, its value a callable that is called as
#: ``(connection, generic=…, accept_loss=…)`` and returns a :class:`~stem_kombu.transports.base.Transport`.
ENTRY_POINT_GROUP = "stem_kombu.transports"
#: By Kombu's driver type. Each is loaded when it is needed: a driver's module takes its time, and may be missing.
_BUILT_IN = {
    "redis": "stem_kombu.transports.redis.port:RedisTransport",
    "amqp": "stem_kombu.transports.amqp.port:AmqpTransport",
    "sqlite": "stem_kombu.transports.sqlite.port:EmbeddedTransport",
    "sql": "stem_kombu.transports.sql.port:SqlTransport",
    "filesystem": "stem_kombu.transports.filesystem.port:FilesystemTransport",
}
_GENERIC = "stem_kombu.transports.generic.port:GenericTransport"
_plugins: dict[str, Callable[..., Transport]] = {}


def open_transport(connection: Connection, *, generic: bool = False, accept_loss: bool = False) -> Transport:
    """The transport of the broker of that connection, which is a template: it is cloned, never used. Nothing connects.

    ``generic`` asks for Kombu's public names only, also where there is a faster and safer way. Without ``accept_loss`` a
    consumer raises :class:`~stem_kombu.errors.ConfigurationError` where Kombu itself can lose a message. Raises
    :class:`~stem_kombu.errors.ConfigurationError` for a plug-in that can't be imported.
    """
    driver = str(connection.transport.driver_type)
    made = _plugin(driver) if driver not in _BUILT_IN else None
    if made is None:
        module, _, name = _BUILT_IN.get(driver, _GENERIC).partition(":")
        made = getattr(import_module(module), name)
    transport: Transport = made(connection, generic=generic, accept_loss=accept_loss)
    return transport


def register_transport(driver: str, factory: Callable[..., Transport]) -> None:
    """Have this process use that factory for Kombu's driver type, as an entry point of :data:`ENTRY_POINT_GROUP` does in
    every process. Those that are built in can't be replaced."""
    _plugins[driver] = factory


def _plugin(driver: str) -> Any:
    if driver not in _plugins:
        for point in entry_points(group=ENTRY_POINT_GROUP, name=driver):
            try:
                _plugins[driver] = point.load()
            except (ImportError, AttributeError) as error:
                raise ConfigurationError(
                    f"the transport plug-in {point.value} for driver {driver!r} can't be imported: {error}",
                    hint="install or repair the plug-in",
                ) from error
    return _plugins.get(driver)
