"""What a broker sends over AMQP, read as much at a time as there is, and taken apart here where it is a message.

py-amqp reads a frame by three calls of the socket, and decodes a message by a call for each letter of a format: more
than all the rest of a short task. Here one read serves a burst, and a message of the usual form goes straight to its
consumer. All else (other methods, long bodies, rare types, whatever looks odd) is handed to py-amqp frame by frame.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from struct import Struct, error
from typing import TYPE_CHECKING, Any

from stem_kombu.concurrency.poller import POLLIN, Poller, poller
from stem_kombu.transports.amqp.message_shapes import MessageShapes, Table

if TYPE_CHECKING:
    from amqp import Connection as AmqpConnection

#: Bytes of one read; and of one that follows a full one, since a turn of the consumer for each part of a large message
#: costs more than all the rest of its way. What brings fewer than the last is followed by a small one again.
_CHUNK, _LARGE_CHUNK, _SMALL = 65536, 1_048_576, 16_384
#: Bytes of an unfinished frame, at most, that such a read is put behind: frames are 128 KiB or less unless a URL says otherwise.
_UNFINISHED = 262_144
#: Bytes of a full record of TLS, and of records that are read before any is handed over: on a slow line each waits for the next.
_RECORD, _MOST_RECORDS = 16_384, 262_144
_FRAME = Struct(">BHI")
_CONTENT = Struct(">HHQH")
_SHORT, _LONG = Struct(">I"), Struct(">Q")
_SIGNED = {ord("I"): Struct(">i"), ord("l"): Struct(">q"), ord("L"): Struct(">q")}
_METHOD, _HEADER, _BODY = 1, 2, 3
_END = 0xCE
_DELIVER, _ACK = b"\x00\x3c\x00\x3c", b"\x00\x3c\x00\x50"  # class 60, methods 60 and 80
_CONFIRM = Struct(">QB")
_CONFIRM_SIZE = 4 + _CONFIRM.size
_CLASS_BASIC = 60
_TEXT, _VOID, _BOOL, _TABLE, _ARRAY = b"SVtFA"
#: Content encodings whose body py-amqp leaves as it is, or decodes to what would be encoded to the same again.
_AS_IT_IS = frozenset({"utf-8", "binary", None})
#: The bits of the properties, in the order in which they come, and the Struct of those that are numbers.
_HEADERS = "application_headers"
_PROPERTIES: tuple[tuple[int, str, Struct | None], ...] = (
    (0x8000, "content_type", None),
    (0x4000, "content_encoding", None),
    (0x2000, _HEADERS, None),
    (0x1000, "delivery_mode", Struct(">B")),
    (0x0800, "priority", Struct(">B")),
    (0x0400, "correlation_id", None),
    (0x0200, "reply_to", None),
    (0x0100, "expiration", None),
    (0x0080, "message_id", None),
    (0x0040, "timestamp", _LONG),
    (0x0020, "type", None),
    (0x0010, "user_id", None),
    (0x0008, "app_id", None),
    (0x0004, "cluster_id", None),
)


class _Odd(Exception):
    """Not of the form that is read here."""


class Content:
    """As much of py-amqp's message as Kombu looks at."""

    __slots__ = ("body", "delivery_info", "delivery_tag", "properties")

    def __init__(self, body: bytes, delivery_info: dict[str, object], properties: dict[str, object]) -> None:
        self.body = body
        self.delivery_info = delivery_info
        self.delivery_tag = delivery_info["delivery_tag"]
        self.properties = properties


class AmqpFrames:
    """The reading end of a connection of py-amqp whose socket has a timeout, for the thread that owns it. The consumers of
    its channel must not use the connection while they are handed a message.

    What has come of an unfinished frame lies where py-amqp keeps the same, which so may read as well, between two calls.
    """

    def __init__(self, amqp: AmqpConnection, channel: Any) -> None:
        self._amqp = amqp
        self._channel = channel
        self._transport = amqp.transport
        self._socket = amqp.sock
        #: Called for each confirm of a published message: its number, and whether it is about all before it as well.
        self.confirmed: Callable[[int, bool], object] | None = None
        self._shapes = MessageShapes()
        #: Whether large messages follow each other; and the memory into which they are read, which is kept: the system takes
        #: longer to give so much anew than to fill it.
        self._is_burst = False
        self._memory: memoryview | None = None
        self._poller: Poller | None = None
        if isinstance(self._socket, ssl.SSLSocket):
            self._poller = poller()
            self._poller.register(self._socket, POLLIN)

    @staticmethod
    def can_read(amqp: AmqpConnection) -> bool:
        """Whether this release of py-amqp keeps unfinished frames where they are looked for here."""
        return isinstance(getattr(amqp.transport, "_read_buffer", None), bytes)

    def take_in(self) -> bool:
        """Hand over what has arrived, without waiting for more; whether there may be more already.

        Raises what py-amqp raises for a connection that is lost, or that the broker closes.
        """
        transport = self._transport
        data, is_full = self._received()
        at = 0
        while len(data) - at >= 8:
            kind, number, size = _FRAME.unpack_from(data, at)
            after = at + 8 + size
            if after > len(data):
                break
            if kind == _METHOD and number == self._channel.channel_id and data[at + 7 : at + 11] == _DELIVER:
                end = self._deliver(data, at + 11, after)
                if end is None:
                    break  # the rest of it is on its way
                if end:
                    at = end
                    continue
            if data[after - 1] == _END:
                if self.confirmed is not None and size == _CONFIRM_SIZE and data[at + 7 : at + 11] == _ACK:
                    tag, multiple = _CONFIRM.unpack_from(data, at + 11)
                    self.confirmed(tag, bool(multiple))
                    at = after
                    continue
                frame = kind, number, bytes(data[at + 7 : after - 1])
                if kind == _BODY and number == self._channel.channel_id:
                    # What follows from it is that a consumer is handed a message, which reads nothing.
                    at = self._pass_on(frame, data, after)
                    continue
                transport._read_buffer = bytes(data[after:])
                self._amqp.on_inbound_frame(frame)
            else:
                transport._read_buffer = bytes(data[at:])
                self._amqp.blocking_read()  # which says what is wrong
            # It may have read on, or have been told of anything.
            data, at = transport._read_buffer, 0
        if at or type(data) is not bytes:
            transport._read_buffer = bytes(data[at:])
        return is_full or (self._poller is not None and self._socket.pending() > 0)

    def _pass_on(self, frame: tuple[int, int, bytes], data: bytes | memoryview, after: int) -> int:
        """Where the next frame begins, once py-amqp has this one: what follows it is not copied for each of a large body's."""
        try:
            self._amqp.on_inbound_frame(frame)
        except BaseException:
            self._transport._read_buffer = bytes(data[after:])
            raise
        return after

    def _received(self) -> tuple[bytes | memoryview, bool]:
        """All that was read and not handed over, with what has just arrived; and whether there may be more of that."""
        transport = self._transport
        before: bytes = transport._read_buffer
        begin = len(before)
        if not self._is_burst or begin > _UNFINISHED:
            chunk = self._read()
            self._is_burst = is_full = len(chunk) >= (_CHUNK if self._poller is None else _RECORD)
            data = transport._read_buffer = before + chunk if before else bytes(chunk)
            return data, is_full
        if (memory := self._memory) is None:
            memory = self._memory = memoryview(bytearray(_UNFINISHED + _LARGE_CHUNK))
        memory[:begin] = before
        most = _LARGE_CHUNK if self._poller is None else _MOST_RECORDS
        count = len(self._read(memory[begin : begin + most]))
        self._is_burst = count >= _SMALL
        return memory[: begin + count], count == most

    def _read(self, room: memoryview | None = None) -> bytes | memoryview:
        """What has arrived, in ``room`` if that is given; empty if nothing has."""
        chunk: bytes | memoryview
        try:
            if self._poller is None:
                # Not recv(), which polls before it reads, because the socket has a timeout.
                fd = self._socket.fileno()
                chunk = os.read(fd, _CHUNK) if room is None else room[: os.readv(fd, [room])]
            elif self._poller.poll(0) or self._socket.pending():
                # What the descriptor has may be less than a record, for the rest of which the socket waits.
                chunk = self._socket.recv(_CHUNK) if room is None else self._records(room, self._poller)
            else:
                return b""
        except BlockingIOError:
            return b""
        except OSError as failure:
            if isinstance(failure, TimeoutError) and failure.errno is None:
                return b""  # half a record, which the socket keeps
            self._transport.connected = False  # the network has given it up
            raise
        if not chunk:
            self._transport.connected = False
            raise ConnectionResetError("the broker closed the connection")
        return chunk

    def _records(self, room: memoryview, ready: Poller) -> memoryview:
        """What has arrived over TLS, where a read brings one record."""
        count: int = self._socket.recv_into(room)
        with suppress(OSError):  # what is wrong the next read finds as well, once these are handed over
            while 0 < count < len(room) and (self._socket.pending() or ready.poll(0)):
                more = self._socket.recv_into(room[count:])
                if not more:
                    break
                count += more
        return room[:count]

    # -- messages -------------------------------------------------------------------------------------------------------

    def _deliver(self, data: bytes | memoryview, at: int, header_at: int) -> int | None:
        """Where the message ends whose delivery begins at ``at`` and its header frame at ``header_at``: it was handed over.
        ``None``: it is not all here yet; 0: it is for py-amqp."""
        if self._channel.is_closing:
            return 0
        try:
            if len(data) < header_at + 21:
                return None
            kind, number, size = _FRAME.unpack_from(data, header_at)
            body_at = header_at + 8 + size
            class_id, _, length, flags = _CONTENT.unpack_from(data, header_at + 7)
            if kind != _HEADER or number != self._channel.channel_id or class_id != _CLASS_BASIC:
                return 0
            if len(data) < body_at + (8 if length else 0):
                return None
            body, end = b"", int(body_at)
            if length:
                kind, number, size = _FRAME.unpack_from(data, body_at)
                if kind != _BODY or number != self._channel.channel_id or size != length:
                    return 0
                end = body_at + 8 + length
                if len(data) < end:
                    return None
                body = bytes(data[body_at + 7 : end - 1])
            if not data[header_at - 1] == data[body_at - 1] == data[end - 1] == _END:
                return 0
            found = self._shapes.read(data, at, header_at, body_at)
            if found is None:
                head, header = bytes(data[at:body_at]), header_at - at
                found = _delivery(head), _properties(head, header + 21, flags, len(head) - 1)
                self._shapes.learn(head, header, *found)
            info, properties = found
        except (_Odd, error, IndexError, UnicodeDecodeError):
            return 0
        take = self._channel.callbacks.get(info["consumer_tag"])
        if take is None or properties.get("content_encoding") not in _AS_IT_IS:
            return 0
        self._amqp.bytes_recv += 1  # by which py-amqp sees that the broker is alive
        try:
            take(Content(body, info, properties))
        except BaseException:
            self._transport._read_buffer = bytes(data[end:])  # it was handed over all the same
            raise
        return end


def _delivery(data: bytes) -> Table:
    tag, at = _short_text(data, 0)
    number, redelivered = _LONG.unpack_from(data, at)[0], bool(data[at + 8] & 1)
    exchange, at = _short_text(data, at + 9)
    routing_key, _ = _short_text(data, at)
    return {
        "consumer_tag": tag,
        "delivery_tag": number,
        "redelivered": redelivered,
        "exchange": exchange,
        "routing_key": routing_key,
    }


def _properties(data: bytes, at: int, flags: int, end: int) -> Table:
    if flags & 0x0003:
        raise _Odd
    found: dict[str, object] = {}
    for bit, name, number in _PROPERTIES:
        if not flags & bit:
            continue
        if number is not None:
            (found[name],) = number.unpack_from(data, at)
            at += number.size
        elif name is _HEADERS:
            table_end = at + 4 + _SHORT.unpack_from(data, at)[0]
            try:
                found[name] = _table(data, at + 4, table_end)
            except RecursionError:
                # py-amqp would fail at it as well, and with it the connection, over and over again. Without headers it is
                # a message that is no task.
                found[name] = {}
            at = table_end
        else:
            found[name], at = _short_text(data, at)
    if at != end:
        raise _Odd
    return found


def _short_text(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode(), end


def _table(data: bytes, at: int, end: int) -> dict[str, object]:
    found: dict[str, object] = {}
    while at < end:
        behind = at + 1 + data[at]
        name = data[at + 1 : behind].decode()
        kind, at = data[behind], behind + 1
        if kind == _TEXT:  # most are, or nothing
            behind = at + 4 + _SHORT.unpack_from(data, at)[0]
            found[name] = data[at + 4 : behind].decode()
            at = behind
        elif kind == _VOID:
            found[name] = None
        else:
            found[name], at = _value(data, at, kind)
    if at != end:
        raise _Odd
    return found


def _value(data: bytes, at: int, kind: int) -> tuple[object, int]:
    """A value of the protocol as py-amqp reads it, and where it ends."""
    if (number := _SIGNED.get(kind)) is not None:
        return number.unpack_from(data, at)[0], at + number.size
    if kind == _VOID:
        return None, at
    if kind == _BOOL:
        return bool(data[at]), at + 1
    if kind not in (_TEXT, _TABLE, _ARRAY):
        raise _Odd
    end = at + 4 + _SHORT.unpack_from(data, at)[0]
    at += 4
    if kind == _TEXT:
        return data[at:end].decode(), end
    if kind == _TABLE:
        return _table(data, at, end), end
    values = []
    while at < end:
        value, at = _value(data, at + 1, data[at])
        values.append(value)
    if at != end:
        raise _Odd
    return values, end
