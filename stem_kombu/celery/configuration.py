"""Stem's settings for a Celery application: Stem's variables first, then what Celery is configured with."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stem_kombu.celery.django_database import django_store
from stem_kombu.drivers.tls import uses_tls
from stem_kombu.errors import ConfigurationError
from stem_kombu.sentinel import is_sentinel, sentinel_address
from stem_kombu.settings import Host, Settings, Source, TlsSettings
from stem_kombu.transport_options import store_url
from stem_kombu.urls import SQLITE_SCHEMES
from stem_kombu.volatile import NOWHERE

if TYPE_CHECKING:
    from celery import Celery

#: Schemes of result backends that Stem can keep a roster and revocations in.
_USABLE = frozenset({"redis", "rediss", "redis+socket", "postgres", "postgresql"})
#: What TLS turns a scheme into.
_ENCRYPTED = {"amqp": "amqps", "pyamqp": "amqps", "redis": "rediss"}


def settings_of(app: object, **given: Any) -> Settings:
    """The settings of ``app``. Keywords are those of :meth:`Settings.from_env` and beat variables and configuration.

    What neither names is the Celery application's: see :func:`host_of`. Raises :class:`ConfigurationError`.
    """
    return Settings.from_env(host=host_of(app), **given)


def host_of(app: Celery) -> Host:
    """What the application's configuration says: ``broker_url`` with its transport options and TLS, ``result_backend``
    where Stem can use it (Redis, PostgreSQL, SQLite), and Stem's own ``stem_namespace`` and ``stem_revoke_store``.

    Where none of these can hold revocations, the default database of a Django project does, and else nothing: the fleet goes
    on without a revoke store (:mod:`stem_kombu.volatile`).
    """
    conf = app.conf
    brokers = list(_brokers(app))
    if conf.broker_use_ssl:
        brokers = [_encrypted(url) for url in brokers]
    backend = _backend(conf)
    store = conf.get("stem_revoke_store")
    if store is None and backend is None and len(brokers) > 1 and not is_sentinel(brokers[0]):
        store = brokers[0]  # a store has one place, whatever the broker can fall back to
    return Host(
        broker=Source(";".join(brokers), "broker_url of the Celery application"),
        broker_options=dict(conf.broker_transport_options or {}),
        backend=None if backend is None else Source(backend, "result_backend of the Celery application"),
        revoke_store=None if store is None else Source(str(store), "stem_revoke_store of the Celery application"),
        namespace=_own(conf, "stem_namespace"),
        tls=_tls(conf.broker_use_ssl) or _tls(conf.redis_backend_use_ssl),
        last_store=django_store() or NOWHERE,
    )


def _brokers(app: Celery) -> Iterator[str]:
    conf = app.conf
    given = conf.broker_read_url or conf.broker_url
    if not given:
        given = app.connection_for_read().as_uri(include_password=True)
    for urls in given if isinstance(given, (list, tuple)) else (given,):
        yield from filter(None, str(urls).split(";"))


def _backend(conf: Any) -> str | None:
    """Celery's result backend as a URL that Stem can use, ``None`` when it can't."""
    url = str(conf.result_backend or "")
    options = conf.result_backend_transport_options or {}
    if is_sentinel(url):
        try:
            url = sentinel_address(url, name="result_backend", options=options).url
            url = _encrypted(url) if conf.redis_backend_use_ssl else url
        except ConfigurationError:
            return None  # Celery can't use it either
        return store_url(url, "result_backend", options)
    # SQLAlchemy's spelling is db+postgresql+psycopg2://…
    scheme, separator, rest = url.removeprefix("db+").partition("://")
    if not separator:
        return None
    if scheme.partition("+")[0] in SQLITE_SCHEMES:
        # As SQLAlchemy reads it: sqlite:////absolute, and sqlite:///relative to where the worker was started.
        path = rest.partition("?")[0].removeprefix("/")
        return f"sqlite:///{Path(path).absolute()}" if path and path != ":memory:" else None
    scheme = scheme if scheme in _USABLE else scheme.partition("+")[0]
    if scheme not in _USABLE:
        return None
    url = f"{scheme}://{rest}"
    return store_url(_encrypted(url) if conf.redis_backend_use_ssl else url, "result_backend", options)


def _encrypted(url: str) -> str:
    if is_sentinel(url):
        return url if uses_tls(url) else f"{url}{'&' if '?' in url else '?'}ssl=true"
    scheme, separator, rest = url.partition("://")
    return f"{_ENCRYPTED.get(scheme, scheme)}{separator}{rest}"


def _tls(given: object) -> TlsSettings:
    """Celery's ``broker_use_ssl`` or ``redis_backend_use_ssl``: ``True``, or a mapping whose keys Redis prefixes."""
    if not isinstance(given, Mapping):
        return TlsSettings()
    named = {str(key).removeprefix("ssl_"): value for key, value in given.items()}
    unverified = named.get("cert_reqs") in (ssl.CERT_NONE, "CERT_NONE", "none")
    return TlsSettings(
        ca_cert=named.get("ca_certs"),
        client_cert=named.get("certfile"),
        client_key=named.get("keyfile"),
        allow_insecure=unverified,
    )


def _own(conf: Any, key: str) -> Source | None:
    value = conf.get(key)
    return None if value is None else Source(str(value), f"{key} of the Celery application")
