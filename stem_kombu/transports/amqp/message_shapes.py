"""Messages that look like those before them, taken apart in one step.

The messages of one sender differ in few places: an id, a time, a number. What is around these, the names and lengths of all
fields, is the same bytes in each. So for messages of the same length it is kept where they differ, and of the next one only
that is read, once all else has proved to be the same.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, NamedTuple

#: Lengths of which something is kept, and messages that may be unlike those before them until their length is left alone.
_MOST, _MOST_MISSES = 64, 32
_TAG, _HEADERS = "delivery_tag", "application_headers"
_TEXT = ord("S")
_LONG = Struct(">I")
#: From the begin of a header frame: to the size of the body, to the flags, and to the first property.
_BODY_SIZE, _FLAGS, _FIRST = 11, 19, 21
#: Properties that are short texts, with their bits, and how many bytes the others take. Behind the headers, in their order.
_SHORT_TEXTS = {
    0x0400: "correlation_id",
    0x0200: "reply_to",
    0x0100: "expiration",
    0x0080: "message_id",
    0x0020: "type",
    0x0010: "user_id",
    0x0008: "app_id",
    0x0004: "cluster_id",
}
_NUMBERS = {0x1000: 1, 0x0800: 1, 0x0040: 8}
_BEHIND_HEADERS = sorted({**_SHORT_TEXTS, **_NUMBERS}, reverse=True)
#: Kinds of values that have their length before them, and the bytes that others take.
_SIZED, _SIZES = b"SFA", {ord("V"): 0, ord("t"): 1, ord("I"): 4, ord("l"): 8, ord("L"): 8}
_SCALARS = (str, bytes, int, float, type(None))


Table = dict[str, Any]


class Text(NamedTuple):
    """Where a text stands, from the begin of the delivery on: a header, or else a property."""

    begin: int
    end: int
    name: str
    is_header: bool


class _Shape:
    """What messages of one length have in common. ``sample`` is one of them, ``texts`` where it has texts, and ``varies`` has
    the numbers of those that are not the same in all."""

    def __init__(self, sample: bytes, texts: list[Text], varies: set[int], misses: int) -> None:
        self.sample, self.texts, self.varies, self.misses = sample, texts, varies, misses
        self.fixed: tuple[object, ...] = ()  # no message is like that

    def fix(self, header_at: int, info: Table, properties: Table) -> None:
        """Read like this one from now on. The delivery has the tag of its consumer first, and then its own."""
        tag_at = 1 + self.sample[0]
        varying = [self.texts[number] for number in sorted(self.varies)]
        spans = [(tag_at, tag_at + 8), (header_at + _BODY_SIZE, header_at + _BODY_SIZE + 8)]
        spans += [(text.begin, text.end) for text in varying]
        pieces, at = [">"], 0
        for begin, end in spans:
            pieces += (f"{begin - at}s", f"{end - begin}s" if len(pieces) > 4 else "Q")
            at = end
        self.take_apart = Struct("".join([*pieces, f"{len(self.sample) - at}s"])).unpack_from
        self.fixed = self.take_apart(self.sample)[::2]
        self.info, self.properties = dict(info), dict(properties)
        headers = _headers(properties)
        self.headers = dict(headers)
        #: Tables and arrays, of which each message has its own, as its receiver may change it.
        self.copied = [name for name, value in headers.items() if isinstance(value, (list, dict))]
        self.in_headers = [text.name for text in varying if text.is_header]
        self.in_properties = [text.name for text in varying if not text.is_header]


class MessageShapes:
    """Those of one connection's messages. A message is a delivery, whose frame ends at ``header_at``, and a header frame, which
    ends at ``body_at``; its arguments begin at ``at``."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[int, int], _Shape | None] = {}

    def read(self, data: bytes | memoryview, at: int, header_at: int, body_at: int) -> tuple[Table, Table] | None:
        """What the delivery says and the properties, ``None`` for a message that is unlike those before. Raises
        ``UnicodeDecodeError`` for what is no text."""
        shape = self._shapes.get((header_at - at, body_at - at))
        if shape is None or not shape.fixed:
            return None
        parts = shape.take_apart(data, at)
        if parts[::2] != shape.fixed:
            return None
        info, properties = shape.info.copy(), shape.properties.copy()
        info[_TAG] = parts[1]
        texts = iter(parts[5::2])
        if _HEADERS in properties:
            properties[_HEADERS] = headers = shape.headers.copy()
            for name in shape.copied:
                headers[name] = headers[name].copy()
            for name, text in zip(shape.in_headers, texts, strict=False):
                headers[name] = text.decode()
        for name, text in zip(shape.in_properties, texts, strict=False):
            properties[name] = text.decode()
        return info, properties

    def learn(self, message: bytes, header_at: int, info: Table, properties: Table) -> None:
        """Keep how a message looks that was read as any other: its bytes up to the body, and what they say."""
        key = header_at, len(message)
        before = self._shapes.get(key)
        if before is None:
            if key not in self._shapes:
                if len(self._shapes) >= _MOST:
                    self._shapes.clear()
                self._shapes[key] = _Shape(message, [], set(), 0)
            return
        texts = None if before.misses >= _MOST_MISSES or info["redelivered"] else _texts(message, header_at, properties)
        if texts is None:
            self._shapes[key] = before if info["redelivered"] else None
            return
        varies = {
            number for number, (begin, end, *_) in enumerate(texts) if before.sample[begin:end] != message[begin:end]
        }
        varies |= before.varies if before.texts == texts else set()
        shape = self._shapes[key] = _Shape(message, texts, varies, before.misses + 1)
        shape.fix(header_at, info, properties)


def _texts(message: bytes, header_at: int, properties: Table) -> list[Text] | None:
    """Where the message has texts; ``None`` where it holds what can't be copied in one step."""
    for value in _headers(properties).values():
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if not all(isinstance(one, _SCALARS) for one in inner):
            return None
    found: list[Text] = []
    flags, at = int.from_bytes(message[header_at + _FLAGS : header_at + _FIRST], "big"), header_at + _FIRST
    for bit in (0x8000, 0x4000):
        at += 1 + message[at] if flags & bit else 0
    if flags & 0x2000:
        end, at = at + 4 + _LONG.unpack_from(message, at)[0], at + 4
        while at < end:
            name_at, at = at + 1, at + 1 + message[at]
            kind, at = message[at], at + 1
            if kind in _SIZED:
                begin, at = at + 4, at + 4 + _LONG.unpack_from(message, at)[0]
                if kind == _TEXT:
                    found.append(Text(begin, at, message[name_at : begin - 5].decode(), is_header=True))
            else:
                at += _SIZES[kind]
    for bit in _BEHIND_HEADERS:
        if flags & bit and bit in _SHORT_TEXTS:
            found.append(Text(at + 1, at + 1 + message[at], _SHORT_TEXTS[bit], is_header=False))
            at += 1 + message[at]
        elif flags & bit:
            at += _NUMBERS[bit]
    return found


def _headers(properties: Table) -> Table:
    return properties.get(_HEADERS) or {}
