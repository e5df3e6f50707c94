"""TLS for brokers: from the ``STEM_TLS_*`` settings to what each driver wants to be told.

The URL decides whether TLS is used (``rediss://``, ``amqps://``, or ``?ssl=true``); the settings decide how. A server's
certificate and name are verified unless ``STEM_TLS_ALLOW_INSECURE`` says otherwise.
"""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from stem_kombu.drivers.tls import checked_tls
from stem_kombu.settings import TlsSettings

_TLS_SCHEMES = frozenset({"rediss", "amqps"})
_ON = frozenset({"1", "true", "yes", "on"})


def uses_tls(url: str) -> bool:
    """Whether that broker URL asks for an encrypted connection."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme in _TLS_SCHEMES or any(
        (key == "ssl" and value.lower() in _ON) or (key.startswith("ssl_") and scheme.startswith(("redis", "sentinel")))
        for key, value in parse_qsl(parts.query)
    )


def tls_options(url: str, tls: TlsSettings) -> dict[str, Any] | None:
    """What Kombu's ``Connection(ssl=…)`` gets for that URL, ``None`` for a plain one.

    Raises :class:`ConfigurationError`.
    """
    if not uses_tls(url):
        return None
    checked_tls(tls)
    if urlsplit(url).scheme.lower().startswith(("redis", "sentinel")):
        return _redis_options(tls)
    return _amqp_options(tls)


def _redis_options(tls: TlsSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "ssl_cert_reqs": ssl.CERT_NONE if tls.allow_insecure else ssl.CERT_REQUIRED,
        "ssl_check_hostname": not tls.allow_insecure,
    }
    given = {"ssl_ca_certs": tls.ca_cert, "ssl_certfile": tls.client_cert, "ssl_keyfile": tls.client_key}
    return options | {key: path for key, path in given.items() if path is not None}


def _amqp_options(tls: TlsSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"cert_reqs": ssl.CERT_NONE if tls.allow_insecure else ssl.CERT_REQUIRED}
    if not tls.allow_insecure:
        # Only a name that is given is verified; it is filled in with the host of each URL.
        options["server_hostname"] = None
    given = {"ca_certs": tls.ca_cert, "certfile": tls.client_cert, "keyfile": tls.client_key}
    return options | {key: path for key, path in given.items() if path is not None}
