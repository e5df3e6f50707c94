"""Leases of messages at the embedded broker: keeping a message this worker's for longer than the visibility timeout (G19)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stem_kombu.errors import BrokerUnavailable
from stem_kombu.transports.errors import broker_errors
from stem_kombu.transports.sqlite.options import Options

if TYPE_CHECKING:
    from kombu import Connection


class EmbeddedLeases:
    """Leases of the embedded broker: asked of the channel that delivered the message, from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._template = connection
        self._lifetime = Options.decode(connection.transport_options or {}).visibility_timeout

    @property
    def lifetime(self) -> float:
        return self._lifetime

    def renew(self, handles: Sequence[Any], seconds: float | None = None) -> list[bool]:
        span = self._lifetime if seconds is None else max(seconds, self._lifetime)
        kept: list[bool] = []
        for handle in handles:
            channel = handle.channel
            try:
                with broker_errors(self._template, "renewing leases"):
                    kept.append(bool(channel.extend(handle.delivery_tag, span)))
            except BrokerUnavailable:
                if not channel.closed:
                    raise
                kept.append(False)  # a channel that closes gives back what it held
        return kept

    def close(self) -> None:
        """There is nothing to close: the messages' own channels are used."""
