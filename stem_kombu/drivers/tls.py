"""The files of the ``STEM_TLS_*`` settings, looked at before a driver trips over them in the middle of a handshake."""

from __future__ import annotations

import ssl
from pathlib import Path

from stem_kombu.errors import ConfigurationError
from stem_kombu.settings import TlsSettings


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
