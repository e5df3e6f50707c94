"""TLS for brokers: from the ``STEM_TLS_*`` settings to what each driver wants to be told, and back.

The URL decides whether TLS is used (``rediss://``, ``amqps://``, or ``?ssl=true``); the settings decide how. A server's
certificate and name are verified unless ``STEM_TLS_ALLOW_INSECURE`` says otherwise.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stem_kombu.drivers.handshake import Endpoint
from stem_kombu.drivers.tls import checked_tls, uses_tls
from stem_kombu.errors import ConfigurationError
from stem_kombu.redaction import mask_url
from stem_kombu.settings import TlsSettings

if TYPE_CHECKING:
    from kombu import Connection


def tls_options(url: str, tls: TlsSettings, *, name: str = "URL") -> dict[str, object] | None:
    """What Kombu's ``Connection(ssl=…)`` gets for that URL (or several, separated by ``;``), ``None`` for a plain one.

    Raises :class:`ConfigurationError`; also for alternates of which some are encrypted and some are not: Kombu has one
    setting for all, and would reach some without verification.
    """
    alternates = url.split(";")
    encrypted = [uses_tls(part) for part in alternates]
    if not any(encrypted):
        return None
    if not all(encrypted):
        raise ConfigurationError(
            f"{name}: {mask_url(url)!r} names brokers with TLS and brokers without it",
            hint="write rediss:// or amqps:// for all of them",
        )
    checked_tls(tls)
    if urlsplit(alternates[0]).scheme.lower().startswith(("redis", "sentinel")):
        return redis_options(tls)
    return _amqp_options(tls)


def tls_of(connection: Connection) -> TlsSettings:
    """The settings that a connection was given."""
    given = connection.ssl
    if not isinstance(given, dict):
        return TlsSettings()
    values = {key.removeprefix("ssl_"): value for key, value in given.items()}
    return TlsSettings(
        values.get("ca_certs"),
        values.get("certfile"),
        values.get("keyfile"),
        allow_insecure=values.get("cert_reqs") in (ssl.CERT_NONE, "none"),
    )


def endpoint_of_connection(connection: Connection) -> Endpoint | None:
    """Where a connection speaks TLS; ``None`` for a plain one, and where several servers stand behind it."""
    if not connection.ssl or str(connection.transport_cls).startswith("sentinel"):
        return None
    named = connection.ssl.get("server_hostname") if isinstance(connection.ssl, dict) else None
    # Kombu replaces localhost by an address, which is not the name that was verified.
    host = named or connection.hostname or "localhost"
    port = connection.port or (5671 if connection.transport.driver_type == "amqp" else 6379)
    return Endpoint(str(host), int(port))


def redis_options(tls: TlsSettings) -> dict[str, object]:
    """What a connection of redis-py that speaks TLS is given."""
    options: dict[str, object] = {
        "ssl_cert_reqs": ssl.CERT_NONE if tls.allow_insecure else ssl.CERT_REQUIRED,
        "ssl_check_hostname": not tls.allow_insecure,
    }
    given = {"ssl_ca_certs": tls.ca_cert, "ssl_certfile": tls.client_cert, "ssl_keyfile": tls.client_key}
    return options | {key: path for key, path in given.items() if path is not None}


def _amqp_options(tls: TlsSettings) -> dict[str, object]:
    options: dict[str, object] = {"cert_reqs": ssl.CERT_NONE if tls.allow_insecure else ssl.CERT_REQUIRED}
    if not tls.allow_insecure:
        # Only a name that is given is verified; it is filled in with the host of each URL.
        options["server_hostname"] = None
    given = {"ca_certs": tls.ca_cert, "certfile": tls.client_cert, "keyfile": tls.client_key}
    return options | {key: path for key, path in given.items() if path is not None}
