"""What went wrong at a broker, in words that an operator can act on.

Every driver has exceptions of its own; below this module there is only :class:`~stem_kombu.errors.BrokerUnavailable`.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stem_kombu.errors import BrokerUnavailable
from stem_kombu.settings import mask_url

if TYPE_CHECKING:
    from kombu import Connection


def shown_url(connection: Connection) -> str:
    """The connection's URL with its password masked."""
    # Kombu's own mask stands there as well where there is no password to hide.
    return mask_url(str(connection.as_uri(include_password=True)))


@contextmanager
def broker_errors(connection: Connection, doing: str = "") -> Iterator[None]:
    """Within the block, whatever the driver raises for a broken connection or a refused operation becomes
    :class:`BrokerUnavailable`. ``doing`` is what was attempted (``"publishing task T"``).

    Don't wrap a drain in it: on Redis a drain that merely ran out of time is one of the driver's connection errors.
    """
    from kombu.exceptions import BatchPublishError, OperationalError

    try:
        yield
    except (
        OperationalError,
        BatchPublishError,
        *connection.connection_errors,
        *connection.channel_errors,
        OSError,
    ) as error:
        raise described(error, shown_url(connection), doing) from error


def described(error: BaseException, url: str, doing: str = "") -> BrokerUnavailable:
    """The error that names the broker (a masked URL), what failed and what to try."""
    while error.__cause__ is not None and type(error).__module__.startswith("kombu"):
        error = error.__cause__
    what, hint = _diagnosis(error)
    return BrokerUnavailable(f"broker {url}: {f'{doing}: ' if doing else ''}{what}", hint=hint)


def _diagnosis(error: BaseException) -> tuple[str, str | None]:
    text = " ".join(str(error).split()) or type(error).__name__
    lowered, kind = text.lower(), type(error).__name__
    if kind in {"AccessRefused", "AuthenticationError", "AuthenticationWrongNumberOfArgsError"} or any(
        word in lowered
        for word in ("wrongpass", "noauth", "access_refused", "invalid password", "authentication required")
    ):
        return f"user or password was not accepted ({text})", "check user and password in the broker URL"
    if kind == "NotAllowed" or "vhost" in lowered:
        return f"the virtual host can't be opened ({text})", "create it, or allow this user to use it"
    if "db index" in lowered:
        return text, "the number after the last slash must be a database that the server has"
    certificate = _verification_failure(error, lowered)
    if certificate is not None:
        return certificate
    if "wrong version number" in lowered or "record layer failure" in lowered:
        return f"the server does not speak TLS on that port ({text})", "use its TLS port, or a URL without TLS"
    if isinstance(error, ssl.SSLError) or "ssl" in lowered or "tlsv1" in lowered or "certificate required" in lowered:
        return (
            f"TLS failed ({text})",
            "check STEM_TLS_CLIENT_CERT and STEM_TLS_CLIENT_KEY, and the server's TLS settings",
        )
    if isinstance(error, socket.gaierror) or any(
        phrase in lowered for phrase in ("name or service not known", "name resolution", "nodename nor servname")
    ):
        return f"the host name can't be resolved ({text})", "check the host in the broker URL"
    if isinstance(error, ConnectionRefusedError) or "refused" in lowered:
        return f"connection refused ({text})", "check that the broker runs at that host and port"
    if isinstance(error, TimeoutError) or "timed out" in lowered or "timeout" in lowered:
        return f"no answer in time ({text})", "check host, port and firewall"
    if isinstance(error, (ConnectionError, EOFError)) or "closed" in lowered or "reset by peer" in lowered:
        return f"the connection was closed ({text})", "if the server expects TLS, write rediss:// or amqps://"
    return text if isinstance(error, OSError) else f"{text} ({kind})", None


def _verification_failure(error: BaseException, lowered: str) -> tuple[str, str] | None:
    if not isinstance(error, ssl.SSLCertVerificationError) and "certificate verify failed" not in lowered:
        return None
    text = " ".join(str(error).split())
    if "mismatch" in lowered or "not valid for" in lowered:
        return (
            f"the server's certificate is for another name ({text})",
            "use the host name that the certificate was made for",
        )
    return (
        f"the server's certificate is not trusted ({text})",
        "set STEM_TLS_CA_CERT to the certificate of the authority that signed it",
    )
