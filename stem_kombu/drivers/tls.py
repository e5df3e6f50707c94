"""The ``STEM_TLS_*`` settings: which URLs they concern, and their files looked at before a driver trips over them."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from stem_kombu.drivers.certificate import Certificate, first_certificate
from stem_kombu.errors import ConfigurationError
from stem_kombu.settings import TlsSettings

CA_CERT, CLIENT_CERT, CLIENT_KEY = "STEM_TLS_CA_CERT", "STEM_TLS_CLIENT_CERT", "STEM_TLS_CLIENT_KEY"
#: The first libpq that knows ``sslrootcert=system``.
_SYSTEM_AUTHORITIES = 160_000
#: Days before the end of a certificate from which on it is worth a word.
SOON = 14
_TLS_SCHEMES = frozenset({"rediss", "amqps"})
_ON = frozenset({"1", "true", "yes", "on"})
_OFF = frozenset({"0", "false", "no", "off"})


def uses_tls(url: str) -> bool:
    """Whether that URL of a Redis or an AMQP broker asks for an encrypted connection."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme in _TLS_SCHEMES or any(
        (key == "ssl" and value.lower() in _ON)
        or (key.startswith("ssl_") and scheme.startswith(("redis", "sentinel")) and "socket" not in scheme)
        for key, value in parse_qsl(parts.query)
    )


def verifies(url: str, tls: TlsSettings) -> bool:
    """Whether an encrypted connection to that Redis or AMQP URL verifies who signed the server's certificate."""
    return not tls.allow_insecure and not any(
        key == "ssl_cert_reqs" and value.lower().removeprefix("cert_") in {"none", "optional"}
        for key, value in parse_qsl(urlsplit(url).query)
    )


def verifies_name(url: str) -> bool:
    """Whether the URL leaves it at that the server's certificate must be for its host."""
    return not any(
        key == "ssl_check_hostname" and value.lower() in _OFF for key, value in parse_qsl(urlsplit(url).query)
    )


def postgres_mode(given: str | None, tls: TlsSettings) -> str:
    """The ``sslmode`` of a connection: what the URL gives, else what follows from the settings."""
    if given is not None:
        return given
    if not tls:
        return "prefer"
    return "require" if tls.allow_insecure else "verify-full"


def postgres_options(given: Mapping[str, str], tls: TlsSettings, libpq: int) -> dict[str, str]:
    """What the settings add to the options of a PostgreSQL URL, which go first, ``sslmode`` above all; ``libpq`` is the
    version of the client library. Raises :class:`ConfigurationError`."""
    if not tls or given.get("sslmode") == "disable":
        return {}
    checked_tls(tls)
    paths = {"sslrootcert": tls.ca_cert, "sslcert": tls.client_cert, "sslkey": tls.client_key}
    options = {key: path for key, path in paths.items() if path is not None}
    mode = postgres_mode(given.get("sslmode"), tls)
    if tls.allow_insecure:
        options.pop("sslrootcert", None)  # libpq verifies against it even in the mode "require"
    elif mode == "verify-full" and tls.ca_cert is None and libpq >= _SYSTEM_AUTHORITIES:
        options["sslrootcert"] = "system"
    return options | {"sslmode": mode}


def tls_for(url: str, tls: TlsSettings) -> TlsSettings:
    """The settings with the URL's own options for files and verification, which come first (``ssl_ca_certs`` and so on
    for Redis, ``sslrootcert`` and so on for PostgreSQL)."""
    said = dict(parse_qsl(urlsplit(url).query))
    names = [("ssl_ca_certs", "sslrootcert"), ("ssl_certfile", "sslcert"), ("ssl_keyfile", "sslkey")]
    files = [said.get(redis) or said.get(postgres) for redis, postgres in names]
    return TlsSettings(
        files[0] or tls.ca_cert, files[1] or tls.client_cert, files[2] or tls.client_key, tls.allow_insecure
    )


def checked_tls(tls: TlsSettings) -> TlsSettings:
    """The settings, or :class:`ConfigurationError` that names the variable: half a client pair, a file that is missing
    or can't be read, what is no certificate or no key in PEM, an encrypted key, a key of another certificate."""
    if (tls.client_cert is None) != (tls.client_key is None):
        given, missing = (CLIENT_CERT, CLIENT_KEY) if tls.client_cert is not None else (CLIENT_KEY, CLIENT_CERT)
        raise ConfigurationError(
            f"{given} is set but {missing} is not", hint="a client certificate needs its key; set both, or neither"
        )
    for name, path in ((CA_CERT, tls.ca_cert), (CLIENT_CERT, tls.client_cert)):
        if path is not None:
            _check_certificates(name, path)
    if tls.client_cert is not None and tls.client_key is not None:
        _read(CLIENT_KEY, tls.client_key)
        _check_pair(tls.client_cert, tls.client_key)
    return tls


def client_certificate(tls: TlsSettings) -> Certificate | None:
    """The client's own certificate, ``None`` where there is none that can be read."""
    if tls.client_cert is None:
        return None
    try:
        return first_certificate(_read(CLIENT_CERT, tls.client_cert))
    except (ConfigurationError, ValueError):
        return None


def client_context(tls: TlsSettings, *, verify: bool) -> ssl.SSLContext:
    """How Python's ``ssl`` connects with these settings; the system's authorities are trusted where none is given."""
    context = ssl.create_default_context(cafile=tls.ca_cert)
    # From Python 3.13 on the default, and stricter than what py-amqp and libpq ask: a handshake here must end as theirs.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.client_cert is not None:
        context.load_cert_chain(tls.client_cert, tls.client_key)
    return context


def _read(name: str, path: str) -> str:
    try:
        return Path(path).read_text("ascii", "replace")
    except FileNotFoundError:
        raise ConfigurationError(f"{name}: there is no file {path!r}", hint="give the path of a PEM file") from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ConfigurationError(
            f"{name}: {path!r} can't be read: {why}", hint="give the path of a PEM file"
        ) from error


def _check_certificates(name: str, path: str) -> None:
    text = _read(name, path)
    try:
        first_certificate(text)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError) as error:
        what = "it holds a private key" if "PRIVATE KEY" in text else _reason(error)
        raise ConfigurationError(
            f"{name}: {path!r} can't be loaded as a certificate: {what}", hint="give a certificate in PEM"
        ) from error


def _check_pair(cert: str, key: str) -> None:
    try:
        # An encrypted key would make OpenSSL ask at the terminal; the empty password makes it fail instead.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        if getattr(error, "reason", None) in {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"}:
            raise ConfigurationError(
                f"{CLIENT_KEY}: {key!r} is not the key of the certificate {cert!r} ({CLIENT_CERT})",
                hint="give the key that the certificate was made for",
            ) from error
        if "ENCRYPTED" in _read(CLIENT_KEY, key):
            raise ConfigurationError(
                f"{CLIENT_KEY}: {key!r} is encrypted", hint="give it unencrypted, readable by the worker's user only"
            ) from error
        raise ConfigurationError(
            f"{CLIENT_KEY}: {key!r} can't be loaded as a private key: {_reason(error)}",
            hint="give the certificate's private key in PEM",
        ) from error


def _reason(error: Exception) -> str:
    """OpenSSL's message, without the place in its source."""
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)
