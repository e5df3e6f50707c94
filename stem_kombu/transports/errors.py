"""What went wrong at a broker, in words that an operator can act on.

Every driver has exceptions of its own; below this module there is only :class:`~stem_kombu.errors.BrokerUnavailable`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from stem_kombu.drivers.handshake import explained
from stem_kombu.errors import BrokerBlocked, BrokerError, BrokerRefused, BrokerUnavailable
from stem_kombu.redaction import mask_url
from stem_kombu.transports.alarms import BLOCKED, BLOCKED_HINT, is_blocked
from stem_kombu.transports.diagnosis import diagnosed
from stem_kombu.transports.tls import endpoint_of_connection, tls_of

if TYPE_CHECKING:
    from kombu import Connection


def shown_url(connection: Connection) -> str:
    """The connection's URL with its password masked."""
    # Kombu's own mask stands there as well where there is no password to hide.
    return mask_url(str(connection.as_uri(include_password=True)))


def broker_errors(connection: Connection, doing: str = "") -> AbstractContextManager[None]:
    """Within the block, whatever the driver raises for a broken connection or a refused operation becomes
    :class:`BrokerUnavailable`. ``doing`` is what was attempted (``"publishing task T"``).

    Don't wrap a drain in it: on Redis a drain that merely ran out of time is one of the driver's connection errors.
    """
    return _BrokerErrors(connection, doing)


class _BrokerErrors:
    # Not a generator, which takes several times as long: it is around each control message.
    __slots__ = ("_connection", "_doing")

    def __init__(self, connection: Connection, doing: str) -> None:
        self._connection, self._doing = connection, doing

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and isinstance(error, driver_errors(self._connection)):
            raise described(error, self._connection, self._doing) from error


def driver_errors(connection: Connection) -> tuple[type[BaseException], ...]:
    """What the driver raises for a broken connection or a refused operation."""
    from kombu import exceptions

    return (
        exceptions.OperationalError,
        getattr(exceptions, "BatchPublishError", exceptions.OperationalError),  # new in Kombu 5.7
        *connection.connection_errors,
        *connection.channel_errors,
        OSError,
    )


def refusal(error: BaseException, connection: Connection) -> BrokerRefused | None:
    """What the error means, where the broker will go on refusing it; else ``None``."""
    told = error if isinstance(error, BrokerError) else described(error, connection)
    return told if isinstance(told, BrokerRefused) else None


def described(error: BaseException, connection: Connection, doing: str = "") -> BrokerUnavailable:
    """The error that names the broker (a masked URL), what failed and what to try.

    What failed in a TLS handshake is looked into with another one, for which the server has a second or two.
    """
    while error.__cause__ is not None and type(error).__module__.startswith("kombu"):
        error = error.__cause__
    if isinstance(original := getattr(error, "orig", None), BaseException):
        error = original  # what the database's driver says, without SQLAlchemy's statement
    if is_blocked(connection):
        return BrokerBlocked(
            f"broker {shown_url(connection)}: {f'{doing}: ' if doing else ''}{BLOCKED}", hint=BLOCKED_HINT
        )
    text = " ".join(str(error).split()) or type(error).__name__
    if type(error).__name__ == "MasterNotFoundError":
        text = text.partition(" : ")[0]  # the rest is the repr of every client that was tried
    found = explained(text, endpoint_of_connection(connection), tls_of(connection)) or diagnosed(error, text)
    kind = BrokerRefused if found.refused else BrokerUnavailable
    return kind(f"broker {shown_url(connection)}: {f'{doing}: ' if doing else ''}{found.what}", hint=found.hint)
