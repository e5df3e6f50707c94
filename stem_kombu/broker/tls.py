"""TLS for brokers: from the ``STEM_TLS_*`` settings to what each driver wants to be told.

The URL decides whether TLS is used (``rediss://``, ``amqps://``, or ``?ssl=true``); the settings decide how. A server's
certificate and name are verified unless ``STEM_TLS_ALLOW_INSECURE`` says otherwise.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from stem_kombu.errors import ConfigurationError
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


def checked_tls(tls: TlsSettings) -> TlsSettings:
    """The settings, or :class:`ConfigurationError` for half a client pair or a file that is missing or no PEM."""
    if (tls.client_cert is None) != (tls.client_key is None):
        given, missing = ("STEM_TLS_CLIENT_CERT", "STEM_TLS_CLIENT_KEY")
        if tls.client_cert is None:
            given, missing = missing, given
        raise ConfigurationError(
            f"{given} is set but {missing} is not", hint="a client certificate needs its key; set both"
        )
    for name, path in (
        ("STEM_TLS_CA_CERT", tls.ca_cert),
        ("STEM_TLS_CLIENT_CERT", tls.client_cert),
        ("STEM_TLS_CLIENT_KEY", tls.client_key),
    ):
        if path is not None and not Path(path).is_file():
            raise ConfigurationError(f"{name}: there is no file {path!r}", hint="give the path of a PEM file")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        name = "STEM_TLS_CA_CERT"
        if tls.ca_cert is not None:
            context.load_verify_locations(tls.ca_cert)
        name = "STEM_TLS_CLIENT_CERT and STEM_TLS_CLIENT_KEY"
        if tls.client_cert is not None:
            # An encrypted key would make OpenSSL ask at the terminal.
            context.load_cert_chain(tls.client_cert, tls.client_key, password="")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{name}: can't be loaded: {error}", hint="give unencrypted PEM files") from error
    return tls


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
