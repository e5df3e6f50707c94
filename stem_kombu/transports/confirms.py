"""Whether sending a task waits until RabbitMQ has confirmed it: always, unless an application has asked for less.

``confirm_publish`` is Kombu's and py-amqp's own name. It is about what the application sends; what Stem sends itself (retries,
what an operator sends again, control messages) is confirmed in any case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stem_kombu.settings import Settings
from stem_kombu.transport_options import CONFIRM_PUBLISH, checked_options, own_options, split_url

if TYPE_CHECKING:
    from kombu import Connection

    from stem_kombu.transports.base import Transport


def asks_for_confirms(settings: Settings, connection: object = None) -> bool:
    """What the settings say of their broker; or the text of a URL, where a sender gives one. Another connection that a sender
    gives is always used with confirms, as it says nothing of what may be lost.

    Raises :class:`~stem_kombu.errors.ConfigurationError` where that text's option is neither true nor false."""
    options = settings.broker_options
    if connection is not None:
        options = split_url(connection)[1] if isinstance(connection, str) else {}
        checked_options(own_options(options), "connection")
    return options.get(CONFIRM_PUBLISH) is not False


def told_of_confirms(settings: Settings, transport: Transport) -> str:
    """What an operator is told where the settings ask for no confirms; else an empty text."""
    if not transport.capabilities.confirms_if_asked or asks_for_confirms(settings):
        return ""
    return f"; applications send tasks without confirms ({CONFIRM_PUBLISH} is false)"


def without_confirms(template: Connection) -> Connection:
    """The same template, for what an application sends without confirms."""
    template.transport_options = {**(template.transport_options or {}), CONFIRM_PUBLISH: False}
    return template


def confirms(template: Connection) -> bool:
    """Whether what is sent by that template's clones is confirmed."""
    return (template.transport_options or {}).get(CONFIRM_PUBLISH) is not False
