"""What went wrong at a broker, in words that an operator can act on.

Every driver has exceptions of its own; below this module there is only :class:`~stem_kombu.errors.BrokerUnavailable`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stem_kombu.broker.alarms import BLOCKED, BLOCKED_HINT, is_blocked
from stem_kombu.broker.tls import endpoint_of_connection, tls_of
from stem_kombu.drivers.handshake import explained
from stem_kombu.errors import BrokerBlocked, BrokerUnavailable
from stem_kombu.redaction import mask_url

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
        raise described(error, connection, doing) from error


def described(error: BaseException, connection: Connection, doing: str = "") -> BrokerUnavailable:
    """The error that names the broker (a masked URL), what failed and what to try.

    What failed in a TLS handshake is looked into with another one, for which the server has a second or two.
    """
    while error.__cause__ is not None and type(error).__module__.startswith("kombu"):
        error = error.__cause__
    if is_blocked(connection):
        return BrokerBlocked(
            f"broker {shown_url(connection)}: {f'{doing}: ' if doing else ''}{BLOCKED}", hint=BLOCKED_HINT
        )
    text = " ".join(str(error).split()) or type(error).__name__
    if type(error).__name__ == "MasterNotFoundError":
        text = text.partition(" : ")[0]  # the rest is the repr of every client that was tried
    what, hint = explained(text, endpoint_of_connection(connection), tls_of(connection)) or _diagnosis(error, text)
    return BrokerUnavailable(f"broker {shown_url(connection)}: {f'{doing}: ' if doing else ''}{what}", hint=hint)


def _diagnosis(error: BaseException, text: str) -> tuple[str, str | None]:
    lowered, kind = text.lower(), type(error).__name__
    if kind in {"AccessRefused", "AuthenticationError", "AuthenticationWrongNumberOfArgsError"} or any(
        word in lowered
        for word in ("wrongpass", "noauth", "access_refused", "invalid password", "authentication required")
    ):
        return f"user or password was not accepted ({text})", "check user and password in the broker URL"
    if kind == "MasterNotFoundError":
        return text, "check the sentinels' addresses and password, and the master's name"
    if kind == "NotAllowed" or "vhost" in lowered:
        return f"the virtual host can't be opened ({text})", "create it, or allow this user to use it"
    if "db index" in lowered:
        return text, "the number after the last slash must be a database that the server has"
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
