"""Connections to brokers: opened from a URL, connected within one deadline, drained with a pulse.

Kombu retries for ever by default and hides for how long; here every attempt is bounded and a failure says what failed.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stem_kombu import chance, timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.errors import BrokerUnavailable, ConfigurationError
from stem_kombu.redaction import mask_url
from stem_kombu.sentinel import is_sentinel
from stem_kombu.settings import Settings, TlsSettings
from stem_kombu.transport_options import CONFIRM_PUBLISH, PREFIX, checked_options, split_url
from stem_kombu.transports import alarms
from stem_kombu.transports.drivers import ACCEPTED, checked_driver, driver_missing
from stem_kombu.transports.errors import described, shown_url
from stem_kombu.transports.inherited import close_in_children
from stem_kombu.transports.leased.option import EngineOptions, check_folders
from stem_kombu.transports.redis.idle import drop_idle as drop_idle
from stem_kombu.transports.sentinels import by_sentinels
from stem_kombu.transports.sql.driver import load_database_driver
from stem_kombu.transports.tls import tls_options
from stem_kombu.urls import checked_url

if TYPE_CHECKING:
    from kombu import Connection


def broker_connection(settings: Settings, *, connect_timeout: float = timeouts.BROKER_CONNECT) -> Connection:
    """A connection to the broker that the settings name, not yet connected. Raises :class:`ConfigurationError`."""
    source = settings.broker
    return open_connection(
        source.value,
        tls=settings.tls,
        name=source.name,
        connect_timeout=connect_timeout,
        options=settings.broker_options,
        defaults=settings.host_options,
    )


def open_connection(
    url: str,
    *,
    tls: TlsSettings | None = None,
    name: str = "URL",
    connect_timeout: float = timeouts.BROKER_CONNECT,
    options: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> Connection:
    """A Kombu connection for the URL, not yet connected; ``name`` is the flag or variable that the URL came from.

    ``options`` are transport options of Kombu (``visibility_timeout``, ``global_keyprefix`` …) that win over those in the
    URL's query, which win over ours; ``defaults`` are such that ours win over.
    Several URLs, separated by ``;``, are tried in turn; those of sentinels are asked for one master. Raises
    :class:`ConfigurationError` for a scheme, a URL or an option that Kombu can't use, a driver that isn't installed, or TLS
    files that can't be loaded; nothing connects here.
    """
    from kombu.connection import Connection

    url, from_url = split_url(checked_url(url, name=name))
    given = {**from_url, **(options or {})}
    if is_sentinel(url):
        url, asked = by_sentinels(url, name, tls or TlsSettings(), {**(defaults or {}), **given})
        given |= asked
    driver, parts = "", url.split(";")
    if len(parts) > 1 and not all("://" in part for part in parts):
        # Nothing of it is shown: it may be the rest of a password with a ; in it.
        raise ConfigurationError(
            f"{name}: the parts between ; are not URLs", hint=f"accepted: {ACCEPTED}; in a password write %3B for ;"
        )
    for part in reversed(parts):
        driver = checked_driver(part, name)
    if driver == "redis":
        checked_options({**(defaults or {}), **given}, name)
    elif driver == "amqp":
        given.pop(PREFIX, None)  # which is for what is kept in Redis: RabbitMQ has virtual hosts
        given.pop(CONFIRM_PUBLISH, None)  # which is about what an application sends, and no other message
    ssl_options = tls_options(url, tls or TlsSettings(), name=name)
    merged = {**(defaults or {}), **transport_options(driver, connect_timeout), **given}
    try:
        connection = Connection(
            url,
            ssl=ssl_options or False,
            connect_timeout=connect_timeout,
            heartbeat=timeouts.BROKER_HEARTBEAT if driver == "amqp" else 0,
            transport_options=EngineOptions(merged) if driver == "sql" else merged,
        )
        if ssl_options is not None:
            # Kombu lets a single ssl_… field of the URL replace all that is given; here it replaces its own field.
            connection.ssl = ssl_options | (connection.ssl if isinstance(connection.ssl, dict) else {})
            _expect_certificate_of_host(connection)
        if connection.transport.driver_type == "sql":
            load_database_driver(url, name)
        elif driver == "filesystem":
            check_folders(merged)
            connection.hostname = "localhost"  # else Kombu warns at each clone that there is none
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(
            f"{name}: {mask_url(url)!r} can't be used as a broker URL: {error}", hint=f"accepted: {ACCEPTED}"
        ) from error
    except ImportError as error:
        raise driver_missing(url, name, error) from error
    return connection


def connect(connection: Connection, timeout: float = timeouts.BROKER_CONNECT) -> Connection:
    """The same connection, connected and logged in, within ``timeout`` seconds in all; every alternate is tried once.

    Raises :class:`BrokerUnavailable` naming the masked URL, what failed and what to try. After that, clone it.
    """
    if connection.connected:
        return connection
    close_in_children(connection)
    attributes: Any = connection  # Kombu's annotations say that times are whole seconds
    attributes.connect_timeout = timeout
    if connection.transport.driver_type == "redis":
        connection.transport.brpop_timeout = timeouts.IDLE_READ
    if connection.transport.driver_type not in _NETWORK_DRIVERS:
        # No network to wait for; and SQLite's connections belong to the thread that opened them.
        _Attempt(connection).run()
        return connection
    attempt = _Attempt(connection)
    # Name resolution and several addresses each take their own time, and no socket timeout covers them all.
    thread = threading.Thread(target=attempt.run_here, name="stem-connect", daemon=True)
    thread.start()
    thread.join(timeout)
    attempt.finish(timeout)
    if connection.transport.driver_type == "amqp":
        # A limit that the kernel keeps (``read_timeout``) is no end for py-amqp within a frame: it would go on reading for ever.
        sock = connection.connection.sock
        sock.settimeout((connection.transport_options or {}).get("read_timeout", timeouts.BROKER_REPLY))
    alarms.watch(connection)
    drop_idle(connection)
    return connection


def release(connection: Connection, patience: float | None = None) -> None:
    """Close the connection in order, if its peer goes along with that within ``patience`` (``timeouts.BROKER_CLOSE``) seconds a
    step.

    AMQP says goodbye on each channel and waits for the answer, by itself for ever: a peer behind a link that was cut off
    never gives one. Nor does RabbitMQ under a resource alarm. Raises what the driver raises.
    """
    if alarms.is_blocked(connection):
        connection.collect()
        return
    link = getattr(connection.connection, "transport", None) if connection.connected else None
    sock = getattr(link, "sock", None)
    if sock is not None:
        sock.settimeout(timeouts.BROKER_CLOSE if patience is None else patience)
    connection.release()


def backoff(attempt: int, *, first: float = 0.1, longest: float = 5.0, jitter: float | None = None) -> float:
    """Seconds to wait before try number ``attempt`` + 1: doubling from ``first`` up to ``longest``, and spread.

    ``jitter`` is a number from 0 to 1 (random when not given); the wait lies between half of the full span and all of
    it, so that a fleet that lost its broker does not come back in step.
    """
    span = min(first * 2.0 ** min(max(attempt - 1, 0), 30), longest)
    return span * (0.5 + 0.5 * (chance.random() if jitter is None else jitter))


def pump(connection: Connection, timeout: float, *, clock: Clock = SYSTEM) -> bool:
    """Wait at most ``timeout`` seconds for one event of the connection and let its consumer have it; whether one came.

    Drains in slices of at most 50 ms, because one drain of Redis may take twice its timeout, and keeps AMQP's
    heartbeats going, which Kombu leaves to whoever drains: call it every few seconds at least. Raises what the driver
    raises when the connection is lost.
    """
    deadline = clock.monotonic() + timeout
    while True:
        pulse(connection, clock=clock)
        left = deadline - clock.monotonic()
        try:
            connection.drain_events(timeout=min(max(left, 0.001), timeouts.DRAIN))
        except TimeoutError:
            if clock.monotonic() >= deadline:
                return False
        else:
            return True


def pulse(connection: Connection, *, clock: Clock = SYSTEM) -> None:
    """Send the AMQP heartbeat that is due and notice a broker that has gone silent; nothing on other transports.

    Cheap enough for every turn of a loop: it acts once a second.
    """
    if not connection.heartbeat or not connection.connected or not connection.transport.implements.heartbeats:
        return
    now = clock.monotonic()
    if now - _last_pulse.get(connection, float("-inf")) >= 1.0:
        _last_pulse[connection] = now
        connection.heartbeat_check()


_last_pulse: weakref.WeakKeyDictionary[Connection, float] = weakref.WeakKeyDictionary()

_NETWORK_DRIVERS = frozenset({"amqp", "redis"})
#: What Kombu and drivers raise for an option that means nothing to them.
_NO_NETWORK = (TypeError, ValueError, AttributeError, LookupError, ImportError)


class _Attempt:
    """One try to connect, which its owner may give up on while it is still under way."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._done = False
        self._abandoned = False

    def run(self) -> None:
        """Connect, or raise :class:`BrokerUnavailable`."""
        try:
            self._connect()
        except Exception as error:
            # The boundary to some thirty drivers, each with exceptions of its own; all mean that it did not connect.
            raise self._told(error) from error

    def run_here(self) -> None:
        try:
            self._connect()
        except Exception as error:  # noqa: BLE001 - handed over to the thread that waits, which raises it
            self._error = error
        with self._lock:
            self._done = True
            abandoned = self._abandoned
        if abandoned and self._error is None:
            release(self._connection)

    def finish(self, timeout: float) -> None:
        with self._lock:
            self._abandoned = not self._done
        if self._abandoned:
            raise BrokerUnavailable(
                f"broker {shown_url(self._connection)}: not connected within {timeout:.2g} s",
                hint=f"check host, port and firewall{', and that the port speaks TLS' if self._connection.ssl else ''}",
            )
        if self._error is not None:
            raise self._told(self._error) from self._error

    def _told(self, error: BaseException) -> BrokerUnavailable | ConfigurationError:
        options = self._connection.transport_options or {}
        ours = transport_options(str(self._connection.transport.driver_type), timeouts.BROKER_CONNECT)
        given = [key for key, value in options.items() if key not in ours or ours[key] != value]
        if given and isinstance(error, _NO_NETWORK) and not isinstance(error, OSError):
            return ConfigurationError(
                f"broker {shown_url(self._connection)}: a transport option is refused ({', '.join(sorted(given))}): {error}",
                hint="correct it, or leave it out",
            )
        return described(error, self._connection)

    def _connect(self) -> None:
        connection = self._connection
        for alternates_left in reversed(range(max(len(connection.alt), 1))):
            try:
                connection.ensure_connection(max_retries=0)
            except Exception:
                if not alternates_left:
                    raise
                connection.maybe_switch_next()
                _expect_certificate_of_host(connection)
            else:
                return


def _expect_certificate_of_host(connection: Connection) -> None:
    """Have AMQP verify the certificate for the URL's host: Kombu would replace ``localhost`` by an address first."""
    if isinstance(connection.ssl, dict) and "server_hostname" in connection.ssl:
        connection.ssl = connection.ssl | {"server_hostname": connection.hostname or "localhost"}


def transport_options(driver: str, connect_timeout: float) -> dict[str, object]:
    if driver == "amqp":
        # Without confirms a publish that the broker never got looks the same as one that it did.
        # And without timeouts a declaration waits for ever for the answer of a peer that is cut off.
        return {"confirm_publish": True, "read_timeout": timeouts.BROKER_REPLY, "write_timeout": timeouts.BROKER_REPLY}
    if driver == "redis":
        return {
            "socket_connect_timeout": connect_timeout,
            "socket_timeout": timeouts.BROKER_REPLY,
            "socket_keepalive": True,
            "health_check_interval": 10,
            # A command that timed out may have been carried out: repeating it is the caller's decision. Kombu's
            # publish batches refuse to work with it as well.
            "retry_on_timeout": False,
            # Leases are renewed as long as a worker lives, so they may be short: a killed worker's messages come back
            # after a minute, not after Kombu's hour. Kept apart from Celery's, whose messages nobody renews and which
            # our sweep would give to a second worker in the middle of a long task.
            "visibility_timeout": timeouts.REDIS_LEASE,
            "unacked_restore_interval": timeouts.REDIS_SWEEP,
            # Otherwise only every tenth sweep really looks.
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": timeouts.REDIS_LEASE,
            "unacked_key": "stem-unacked",
            "unacked_index_key": "stem-unacked-index",
            "unacked_mutex_key": "stem-unacked-mutex",
            # A consumer waits on one connection for each queue and priority; this is only a bound.
            "max_connections": 100,
        }
    if driver in {"memory", "filesystem"}:
        return {"polling_interval": 0.01 if driver == "memory" else timeouts.DRAIN}
    return {}
