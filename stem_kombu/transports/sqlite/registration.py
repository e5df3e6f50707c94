"""The embedded broker: a Kombu transport whose queues live in one SQLite file, for fleets on one machine.

:func:`register` teaches Kombu the scheme ``sqlite``; ``Connection(url,
transport="stem_kombu.transports.sqlite.registration:Transport")`` does without it. Why it exists, and what it promises, is in
``docs/adr`` and in the docstring of :mod:`stem_kombu.transports.sqlite.transport`.
"""

from __future__ import annotations

from kombu.transport import TRANSPORT_ALIASES

from stem_kombu.transports.sqlite.channel import Channel
from stem_kombu.transports.sqlite.errors import EmbeddedBrokerCorrupt, EmbeddedBrokerUnavailable
from stem_kombu.transports.sqlite.transport import Transport

#: The URL scheme: ``sqlite:////absolute/path/broker.db``.
SCHEME = "sqlite"


def register() -> None:
    """Make ``Connection("sqlite:////path")`` use this transport in this process. Harmless when repeated.

    Kombu has no entry point for transports, hence the alias table.
    """
    TRANSPORT_ALIASES[SCHEME] = "stem_kombu.transports.sqlite.registration:Transport"


__all__ = ["SCHEME", "Channel", "EmbeddedBrokerCorrupt", "EmbeddedBrokerUnavailable", "Transport", "register"]
