"""Kombu's messages, made in one step where nothing has to be unpacked.

Kombu makes one by three constructors, each of which looks for what is rarely there. Here an empty one is filled in. Whether it
then is as Kombu's own is tried once for each connection; if not, all are left to Kombu.
"""

from __future__ import annotations

from typing import Any

from stem_kombu.transports.amqp.frames import Content
from stem_kombu.transports.amqp.message_shapes import Table

_HEADERS = "application_headers"


def make_messages_quickly(channel: Any) -> Any:
    """The channel, which makes its messages so from now on; as they are unpacked at this moment."""
    kind, by_kombu = channel.Message, channel.message_to_python

    def made(content: Content) -> object:
        properties: Table = content.properties
        headers = properties.get(_HEADERS) or {}
        if "compression" in headers:
            return by_kombu(content)
        message = kind.__new__(kind)
        message.channel, message.delivery_tag = channel, content.delivery_tag
        message.delivery_info, message.properties = content.delivery_info, properties
        message.content_type = properties.get("content_type")
        message.content_encoding = properties.get("content_encoding")
        message.headers, message.body = headers, content.body
        message.errors = []
        message.accept = message._decoded_cache = message.compressed = None
        message._state = "RECEIVED"
        return message

    sample = Content(b"[]", {"delivery_tag": 1}, {"content_type": "text/plain", _HEADERS: {"id": "t"}})
    if _facts(by_kombu(sample)) == _facts(made(sample)):
        channel.message_to_python = made
    return channel


def _facts(message: object) -> dict[str, object]:
    """All that is known of the message."""
    slots = [name for one in type(message).__mro__ for name in getattr(one, "__slots__", ()) if name != "__dict__"]
    return {"compressed": None, **vars(message), **{name: getattr(message, name, message) for name in slots}}
