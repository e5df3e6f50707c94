"""Kombu's messages in the form in which its virtual transports keep them: one JSON object a message."""

from __future__ import annotations

import json
from typing import Any

from stem_kombu.messages.quick_json import load_typed
from stem_kombu.messages.resending import mark_consumed

#: What reading something that is no message of Kombu's raises.
NO_MESSAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


#: How a payload begins, and how its body ends where that is a text: within one, no quotation mark stands alone.
_BEGIN, _END = '{"body": "', '", "content-encoding"'
#: Signs of a payload that takes longer to search than its body's end takes to find.
_LARGE = 2048
_BEGIN_BYTES, _END_BYTES = _BEGIN.encode(), _END.encode()


def end_of_body(text: bytes | str) -> int:
    """Where a body that is a text ends, 0 where that is not seen: it may be large, and looks like much that it is not."""
    if isinstance(text, str):
        return max(text.find(_END), 0) if text.startswith(_BEGIN) else 0
    return max(text.find(_END_BYTES), 0) if text.startswith(_BEGIN_BYTES) else 0


def message_of(text: bytes | str, tag: str, queue: str, channel: Any, *, redelivered: bool = False) -> object:
    """The Kombu message of what lay in a queue; raises one of :data:`NO_MESSAGE` where there is none.

    ``redelivered``: the broker's own mark that a consumer had it before; what the message says of that stands anyway."""
    try:
        payload = load_typed(text, plain=end_of_body(text) if len(text) > _LARGE else 0)
    except (ValueError, TypeError, ArithmeticError, AttributeError, KeyError):
        payload = json.loads(text)  # a sender's header that only looks like a date or UUID of Kombu's JSON
    payload["properties"]["delivery_tag"] = tag
    info = payload["properties"]["delivery_info"]
    info.setdefault("exchange", "")
    info.setdefault("routing_key", queue)
    if redelivered:
        info["redelivered"] = True
    return mark_consumed(channel.Message(payload, channel=channel), queue)
