"""A host application's connection, made as safe for a worker as one that the settings name.

A plain Kombu connection has no heartbeat and no timeouts, so that nobody notices when it dies in silence; and on Redis it
keeps what it holds for an hour, under the keys that Celery's workers sweep.
"""

from __future__ import annotations

from kombu.connection import Connection, ConnectionPool
from kombu.pools import ProducerPool

from stem_kombu import timeouts
from stem_kombu.errors import ConfigurationError
from stem_kombu.settings import Settings
from stem_kombu.transports.connections import open_connection, transport_options

#: Options by which a side of a connection is noticed to be dead; those that the host has set are its own decision.
_LIVENESS = frozenset(
    {
        "read_timeout",
        "write_timeout",
        "socket_connect_timeout",
        "socket_timeout",
        "socket_keepalive",
        "health_check_interval",
        "max_connections",
        "polling_interval",
    }
)
#: Redis: what clients of the settings' own connections publish commands under.
_FANOUT = {"fanout_prefix": True, "fanout_patterns": True}
_UNACKED_KEY = "unacked_key"


def beside(given: object, settings: Settings) -> Connection:
    """A connection of a worker's own to the broker of ``given``, not yet connected; ``given`` itself is never used.

    ``given`` is a Kombu connection (connected or not), a pool of connections or producers, or the text of a URL. Its hosts,
    credentials, TLS, key prefix, priority steps and other options are kept. Where it sets no heartbeat and no timeouts, it
    gets ours. How messages are held (lease, keys, confirms) is always ours, unless its keys are ours already.

    Raises :class:`ConfigurationError` for anything else, and for a URL that can't be used.
    """
    if isinstance(given, str):
        return open_connection(given, tls=settings.tls, name="connection")
    if isinstance(given, ProducerPool):
        given = given.connections
    if isinstance(given, ConnectionPool):
        given = given.connection
    if not isinstance(given, Connection):
        raise ConfigurationError(
            f"connection {type(given).__name__} is not a Kombu connection, a pool of them, or the text of a URL",
            hint="pass kombu.Connection(url)",
        )
    driver = str(given.transport.driver_type)
    options: dict[str, object] = {}
    if driver != "sql":  # whose options are SQLAlchemy's, and Stem has none of its own among them
        options["transport_options"] = overlaid(driver, dict(given.transport_options or {}))
    if driver == "amqp" and not given.heartbeat:
        options["heartbeat"] = timeouts.BROKER_HEARTBEAT
    connection: Connection = given.clone(**options)
    return connection


def overlaid(driver: str, given: dict[str, object]) -> dict[str, object]:
    """The transport options of a host application with Stem's over them, as :func:`beside` says."""
    ours = transport_options(driver, timeouts.BROKER_CONNECT)
    if driver == "redis":
        ours |= _FANOUT | {"ack_emulation": True}
        if given.get(_UNACKED_KEY) == ours[_UNACKED_KEY]:
            # Made by Stem's own settings: a lease that was chosen there stays.
            ours = {name: given.get(name, value) for name, value in ours.items()}
    return given | {
        name: given[name] if name in _LIVENESS and given.get(name) is not None else value
        for name, value in ours.items()
    }
