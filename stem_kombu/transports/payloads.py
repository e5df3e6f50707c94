"""Kombu's messages in the form in which its virtual transports keep them: one JSON object a message."""

from __future__ import annotations

import json
from typing import Any

from stem_kombu.messages.kombu_json import load_typed
from stem_kombu.messages.resending import mark_consumed

#: What reading something that is no message of Kombu's raises.
NO_MESSAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


def message_of(text: bytes | str, tag: str, queue: str, channel: Any, *, redelivered: bool = False) -> Any:
    """The Kombu message of what lay in a queue; raises one of :data:`NO_MESSAGE` where there is none.

    ``redelivered``: the broker's own mark that a consumer had it before; what the message says of that stands anyway."""
    try:
        payload = load_typed(text)
    except (ValueError, TypeError, ArithmeticError, AttributeError, KeyError):
        payload = json.loads(text)  # a sender's header that only looks like a date or UUID of Kombu's JSON
    payload["properties"]["delivery_tag"] = tag
    info = payload["properties"]["delivery_info"]
    info.setdefault("exchange", "")
    info.setdefault("routing_key", queue)
    if redelivered:
        info["redelivered"] = True
    return mark_consumed(channel.Message(payload, channel=channel), queue)
