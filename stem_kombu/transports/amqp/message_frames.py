"""A message as AMQP's frames, made in few steps and byte for byte as Kombu and py-amqp make them (AMQP 0-9-1, 2.3.5 and 4.2).

What rarely stands in a task's message (other types in headers, other properties) is left to py-amqp.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from struct import Struct
from typing import Any

from stem_kombu.messages.encoding import Envelope

METHOD, HEADER, BODY = 1, 2, 3
BASIC, PUBLISH, ACK = 60, 40, 80
END = b"\xce"
#: What is around the payload of a frame.
AROUND = 8

_FRAME, _CONTENT, _LONG, _SHORT = Struct(">BHI"), Struct(">HHQ"), Struct(">I"), Struct(">H")
_ACK = Struct(">BHIHHQBB")
_TEXT, _WHOLE, _LARGE, _REAL = Struct(">cI"), Struct(">ci"), Struct(">cq"), Struct(">cd")
_PLAIN = {None: b"V", True: b"t\x01", False: b"t\x00"}
_LONGEST_SHORT_TEXT = 255
_LARGEST_WHOLE = 2**31 - 1
#: Content type and encoding, headers: the properties that each message has.
_ALWAYS = 0xE000
#: All others that are written here, with their bits and in their order: numbers of a byte, and short texts.
_NUMBERS = (("delivery_mode", 0x1000), ("priority", 0x0800))
_TEXTS = (("correlation_id", 0x0400), ("reply_to", 0x0200), ("expiration", 0x0100))
_USUAL = {"delivery_mode": 2, "priority": 0}
_KNOWN = frozenset(name for name, _ in (*_NUMBERS, *_TEXTS))


class Unusual(Exception):
    """The message holds what is not written here."""


def frame(kind: int, number: int, payload: bytes) -> bytes:
    """A whole frame of the channel with that number."""
    return _FRAME.pack(kind, number, len(payload)) + payload + END


def ack_frame(number: int, tag: int, *, multiple: bool) -> bytes:
    """Acknowledges the delivery of that tag on the channel with that number, or all up to it."""
    return _ACK.pack(METHOD, number, 13, BASIC, ACK, tag, multiple, END[0])


def short_text(text: str) -> bytes:
    """Its bytes, with their number before them. Raises :class:`Unusual` for more than 255."""
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) > _LONGEST_SHORT_TEXT:
        raise Unusual
    return bytes((len(encoded),)) + encoded


@lru_cache(maxsize=256)
def publish_method(exchange: str, routing_key: str, mandatory: bool = False) -> bytes:
    """The payload of the method ``basic.publish``."""
    bits = b"\x01" if mandatory else b"\x00"
    return Struct(">HHH").pack(BASIC, PUBLISH, 0) + short_text(exchange) + short_text(routing_key) + bits


def message_frames(envelope: Envelope, method: bytes, number: int, most: int) -> bytes:
    """All frames of the message on the channel with that number, each of at most ``most`` bytes of payload.

    Raises :class:`Unusual`."""
    body = envelope.body
    size, content = len(body), _content(envelope)
    begin = (
        _FRAME.pack(METHOD, number, len(method)) + method + END
        + _FRAME.pack(HEADER, number, 12 + len(content)) + _CONTENT.pack(BASIC, 0, size) + content + END
    )  # fmt: skip
    if size <= most:
        return begin + _FRAME.pack(BODY, number, size) + body + END if size else begin
    return begin + b"".join(frame(BODY, number, body[at : at + most]) for at in range(0, size, most))


def _content(envelope: Envelope) -> bytes:
    """Which properties follow, and these."""
    given = envelope.properties
    if not (given.keys() <= _KNOWN and envelope.content_type and envelope.content_encoding):
        raise Unusual
    properties = {**_USUAL, **given}
    flags, pieces = _ALWAYS, [_form(envelope.content_type, envelope.content_encoding), _table(envelope.headers)]
    for name, bit in _NUMBERS:
        value = properties[name]
        if type(value) is not int or not 0 <= value <= 255:
            raise Unusual
        flags |= bit
        pieces.append(bytes((value,)))
    for name, bit in _TEXTS:
        value = properties.get(name)
        if value is None:
            continue
        if type(value) is not str:
            raise Unusual
        flags |= bit
        pieces.append(short_text(value))
    return _SHORT.pack(flags) + b"".join(pieces)


@lru_cache(maxsize=64)
def _form(content_type: str, encoding: str) -> bytes:
    return short_text(content_type) + short_text(encoding)


def _table(fields: Mapping[str, Any]) -> bytes:
    pieces: list[bytes] = []
    for name, value in fields.items():
        kind = type(value)
        if kind is str:
            encoded = value.encode("utf-8", "surrogatepass")
            pieces += _name(name), _TEXT.pack(b"S", len(encoded)), encoded
        else:
            pieces += _name(name), _PLAIN[None] if value is None else _other(value, kind)
    table = b"".join(pieces)
    return _LONG.pack(len(table)) + table


def _other(value: Any, kind: type) -> bytes:
    if kind is bool:
        return _PLAIN[value]
    if kind is int and -_LARGEST_WHOLE <= value < 2**63:
        return _WHOLE.pack(b"I", value) if value <= _LARGEST_WHOLE else _LARGE.pack(b"L", value)
    if kind is float:
        return _REAL.pack(b"d", value)
    if kind is dict:
        return b"F" + _table(value)
    raise Unusual


@lru_cache(maxsize=1024)
def _name(name: str) -> bytes:
    if type(name) is not str:
        raise Unusual
    return short_text(name)
