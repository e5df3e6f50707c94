"""One Redis server, reached directly, over TLS, through a socket file or through Sentinel.

redis-py is imported when a database is made, never before. Replies are bytes (``decode_responses`` is off), so that
their reader can name the key that holds a malformed value.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import methodcaller
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from stem_kombu import timeouts
from stem_kombu.drivers import forking
from stem_kombu.drivers.bulk import LARGE, time_limit
from stem_kombu.drivers.diagnosis import Diagnosis, store_error
from stem_kombu.drivers.handshake import endpoint_of, explained
from stem_kombu.drivers.packages import driver_package
from stem_kombu.drivers.redis_errors import SENTINELS, UNREACHABLE, meaning
from stem_kombu.drivers.tls import checked_tls, tls_for, uses_tls, verifies
from stem_kombu.errors import ConfigurationError, StoreError, StoreUnavailable
from stem_kombu.redaction import mask_url
from stem_kombu.sentinel import is_sentinel, sentinel_address
from stem_kombu.settings import TlsSettings
from stem_kombu.transport_options import PREFIX, without_option
from stem_kombu.urls import checked_server_url

T = TypeVar("T")

#: Option of a URL: how many replicas must have what is stored before it counts as stored.
REPLICAS = "wait_replicas"
#: Parts of redis-py that are used here.
_PARTS = ("retry", "backoff", "sentinel", "exceptions", "connection")


@dataclass(frozen=True, slots=True)
class RedisScript:
    """A Lua script and its SHA-1, by which a server that has seen it can be asked to run it."""

    source: str
    sha1: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha1", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())


class RedisDatabase:
    """A lazily connected client, shared by the threads of this process; each call takes a connection from its pool.

    ``run`` calls the operation with a ``redis.Redis``. A lost connection is opened again and the operation repeated
    once, unless ``repeat=False`` (for what must not happen twice). A forked child gets a client of its own. ``prefix`` is
    the URL's ``global_keyprefix``; :meth:`evaluate` and :meth:`key` put it before keys. ``name`` is
    the flag or variable that the URL came from; ``patience`` shortens both timeouts for a caller that has a deadline,
    in seconds. Raises :class:`ConfigurationError` for a URL that can't be read and
    :class:`StoreUnavailable` when the server can't be reached, refuses, or does not answer in time.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "URL",
        tls: TlsSettings | None = None,
        purpose: str = "store",
        connect_timeout: float = timeouts.REDIS_CONNECT,
        timeout: float = timeouts.REDIS_REPLY,
        patience: float | None = None,
    ) -> None:
        self.url = mask_url(url)
        url, prefix = without_option(url, PREFIX)
        url, replicas = without_option(url, REPLICAS)
        self._replicas = _count(replicas, name)
        self._address, self.prefix = url, prefix or ""
        self._redis = driver_package("redis", _PARTS, "redis", name=name, masked=self.url)
        self._purpose = purpose
        self._tls, self._endpoint = tls or TlsSettings(), endpoint_of(checked_server_url(url, name))
        self._options: dict[str, object] = {
            "socket_connect_timeout": connect_timeout if patience is None else min(connect_timeout, patience),
            "socket_timeout": timeout if patience is None else min(timeout, patience),
            # The driver's own retries sleep for seconds (redis-py 6 and later); repeating is decided here, once.
            "retry": self._redis.retry.Retry(self._redis.backoff.NoBackoff(), 0),
            **_tls_options(url, self._tls),
        }
        self._open = self._opener(url, name)
        self._lock = threading.Lock()
        forking.renew_in_children(self)
        self._client: Any = None
        self._pid = 0

    def run(self, operation: Callable[[Any], T], *, repeat: bool = True, size: int = 0) -> T:
        """What the operation returns when called with a ``redis.Redis``; it may take longer the more bytes it sends."""
        errors = self._redis.exceptions
        for final in (not repeat, True):
            try:
                if size >= LARGE:
                    return self._with_more_time(operation, size)
                with self._lock:
                    if self._client is None or self._pid != os.getpid():
                        self._client, self._pid = self._shared(), os.getpid()
                    client = self._client
                try:
                    return operation(client)
                finally:
                    if client is not self._client:  # let go meanwhile, when this connection was in use
                        client.connection_pool.disconnect(inuse_connections=False)
            except errors.AuthenticationError as error:
                raise self._translated(error) from error
            except (errors.ConnectionError, errors.TimeoutError, OSError) as error:
                self.close()  # every pooled connection is as old as the one that broke
                # A server that refuses, or is silent for a whole timeout, would only double the wait.
                if final or isinstance(error, errors.TimeoutError) or "refused" in str(error):
                    raise self._translated(error) from error
            except errors.ReadOnlyError as error:
                self.close()  # a fail-over made this server a replica; Sentinel names the new master
                if final:
                    raise self._translated(error) from error
            except errors.RedisError as error:
                raise self._translated(error) from error
        raise AssertionError("unreachable")

    def command(self, name: str, *arguments: object, repeat: bool = True) -> Any:
        """What one command returns, as redis-py decodes it. ``name`` is that of redis-py's method."""
        return self.run(methodcaller(name, *arguments), repeat=repeat)

    def evaluate(
        self,
        script: RedisScript,
        keys: Sequence[str],
        arguments: Sequence[str | bytes | int],
        *,
        repeat: bool = True,
        replicated: bool = False,
    ) -> Any:
        """What the script returns, as redis-py decodes it (bytes, ints, lists). Atomic on the server.

        ``replicated``: and as many replicas as the URL's ``wait_replicas`` asks for have it. Raises
        :class:`StoreUnavailable` when they have not in time, though the server itself has.
        """

        size = sum([len(argument) for argument in arguments if not isinstance(argument, int)])
        names = [self.prefix + key for key in keys] if self.prefix else keys

        def ask(client: Any) -> object:
            try:
                return client.evalsha(script.sha1, len(names), *names, *arguments)
            except self._redis.exceptions.NoScriptError:
                return client.eval(script.source, len(names), *names, *arguments)

        def ask_and_wait(client: Any) -> object:
            with client.client() as one:  # WAIT is for what this very connection has written
                answer = ask(one)
                self._require_replicas(one)
                return answer

        waits = replicated and self._replicas
        return self.run(ask_and_wait if waits else ask, repeat=repeat, size=size)

    def _require_replicas(self, connection: Any) -> None:
        reached = connection.execute_command("WAIT", self._replicas, round(1000 * timeouts.REDIS_REPLICATION))
        if reached < self._replicas:
            raise StoreUnavailable(
                f"{self._purpose} {self.url}: stored, but {reached} of {self._replicas} replicas have it after "
                f"{timeouts.REDIS_REPLICATION:g} s: it is lost if another server takes over",
                hint="do it again once the replicas follow, or ask for fewer (wait_replicas)",
            )

    def key(self, name: str) -> str:
        """The key of that name, with the prefix."""
        return self.prefix + name

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`."""
        self._lock = threading.Lock()
        self._client = None  # whose connections redis-py closes here without a word on the wire

    def close(self) -> None:
        """Let the connections go. May be called twice; the next call connects again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            # Not those by which other threads are asking just now: redis-py then fails in ways that are no errors of its
            # own. The thread that uses one closes it.
            client.connection_pool.disconnect(inuse_connections=False)

    def _with_more_time(self, operation: Callable[[Any], T], size: int) -> T:
        """By a connection of its own: the driver's time-out is a connection's, and counts while it sends as well."""
        client = self._open()
        options = client.connection_pool.connection_kwargs
        options["socket_timeout"] = time_limit(options.get("socket_timeout") or timeouts.REDIS_REPLY, size)
        try:
            return operation(client)
        finally:
            client.connection_pool.disconnect()

    def _shared(self) -> object:
        """The client of the other databases of this process with the same address and limits, where there is one: a roster,
        a backend and a store at one place take turns with its connections."""
        limits = sorted((key, str(value)) for key, value in self._options.items() if key != "retry")
        key = (os.getpid(), self._address, *limits)
        client = _clients.get(key)
        if client is None:
            client = _clients.setdefault(key, self._open())
        return client

    def _opener(self, url: str, name: str) -> Callable[[], Any]:
        parts = urlsplit(url)
        if is_sentinel(url):
            return self._sentinel_opener(url, name)
        if parts.scheme == "redis+socket":  # Kombu's spelling of redis-py's unix://
            query = [("db" if key == "virtual_host" else key, value) for key, value in parse_qsl(parts.query)]
            parts = parts._replace(scheme="unix", query=urlencode(query))
        # Kombu and Celery write CERT_NONE where redis-py wants none, and ?ssl=true where it wants rediss://.
        query = [
            (k, v.lower().removeprefix("cert_") if k == "ssl_cert_reqs" else v)
            for k, v in parse_qsl(parts.query)
            if k != "ssl"
        ]
        if parts.scheme == "redis" and uses_tls(url):
            parts = parts._replace(scheme="rediss")
        # Not by urlunsplit(), which leaves out the slashes of unix:///path.
        address = f"{parts.scheme}://{parts.netloc}{parts.path}?{urlencode(query, quote_via=quote)}"
        try:
            self._redis.connection.parse_url(address)  # nothing connects here; a bad URL is told before anything starts
        except ValueError as error:
            # Of its text no more than the name of an option: what was taken for a port may be the rest of a password.
            said = str(error)
            known = said if said.startswith("Invalid value for") else "its port or one of its options can't be read"
            raise ConfigurationError(
                f"{name}: {self.url!r} is not a Redis URL: {known}", hint="write redis://:password@host:6379/0"
            ) from None
        options = dict(self._options)
        if parts.scheme == "unix":
            del options["socket_connect_timeout"]  # redis-py 4 does not know it there, and a socket file never waits

        def open_() -> object:
            client = self._redis.Redis.from_url(address, **options)
            pool = client.connection_pool
            try:
                pool.connection_class(**pool.connection_kwargs)  # nothing connects here either
            except TypeError as error:
                raise ConfigurationError(
                    f"{name}: {self.url!r} has an option that Redis does not know: {str(error).rpartition(' ')[2]}",
                    hint="write redis://:password@host:6379/0",
                ) from None
            return client

        return open_

    def _sentinel_opener(self, url: str, name: str) -> Callable[[], object]:
        address = sentinel_address(url, name=name)
        options = {**self._options, "username": address.username, "password": address.password}
        own = {key: self._options[key] for key in ("socket_connect_timeout", "socket_timeout", "retry")}
        # Who asks for TLS asks the sentinels with it as well: they are told a password, and say where the master is.
        own |= {key: value for key, value in self._options.items() if key.startswith("ssl")}
        own |= address.sentinel_kwargs

        def connect() -> object:
            watch = self._redis.sentinel.Sentinel(list(address.hosts), sentinel_kwargs=own, db=address.db, **options)
            return watch.master_for(address.master)

        return connect

    def _translated(self, error: Exception) -> StoreError:
        text = " ".join(str(error).split()) or type(error).__name__
        found = meaning(error, text)
        if found is SENTINELS:
            text = text.partition(" : ")[0]  # the rest is the repr of every client that was tried
        elif found is UNREACHABLE:
            found = explained(text, self._endpoint, tls_for(self._address, self._tls)) or found
            if found is UNREACHABLE and self._endpoint is None and ("closed" in text or "reset" in text):
                found = Diagnosis("", "if the server expects TLS, write rediss://")
        return store_error(f"{self._purpose} {self.url}", text, found)


#: By process, address and limits, as long as a database uses them.
_clients: weakref.WeakValueDictionary[tuple[object, ...], object] = weakref.WeakValueDictionary()


def literal(text: str) -> str:
    """The text as a pattern of SCAN that matches nothing else."""
    return "".join(f"\\{char}" if char in "*?[]^\\" else char for char in text)


def _count(text: str | None, name: str) -> int:
    if text is None or (text.isdigit() and len(text) < 4):
        return int(text or 0)
    raise ConfigurationError(
        f"{name}: {REPLICAS}={text[:40]!r} is not a number of replicas", hint="write wait_replicas=1"
    )


def _tls_options(url: str, tls: TlsSettings) -> dict[str, object]:
    sentinel = is_sentinel(url)
    if not uses_tls(url) and not (sentinel and tls and sentinel_address(url).encrypted_by_settings):
        return {}
    checked_tls(tls)
    allow_insecure = not verifies(url, tls) if sentinel else tls.allow_insecure
    if sentinel:
        tls = tls_for(url, tls)  # redis-py reads no such URL
    given = {"ssl_ca_certs": tls.ca_cert, "ssl_certfile": tls.client_cert, "ssl_keyfile": tls.client_key}
    options: dict[str, object] = {key: path for key, path in given.items() if path is not None}
    options |= {"ssl_cert_reqs": "none" if allow_insecure else "required", "ssl_check_hostname": not allow_insecure}
    if sentinel:
        options["ssl"] = True
    return options
