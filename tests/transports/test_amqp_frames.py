"""What AMQP brings is the same whether it is taken apart here or by py-amqp, however it is cut into pieces."""

from __future__ import annotations

import collections
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.basic_message import Message
from amqp.exceptions import UnexpectedFrame
from amqp.method_framing import frame_handler, frame_writer
from amqp.serialization import dumps, loads
from amqp.transport import TCPTransport
from hypothesis import given
from hypothesis import strategies as st

from stem_kombu.messages.encoding import encode_task
from stem_kombu.task import TaskMessage
from stem_kombu.transports.amqp import frames as amqp_frames
from stem_kombu.transports.amqp.frames import AmqpFrames
from stem_kombu.transports.amqp.message_shapes import MessageShapes
from tests.servers.papers import Authority

DELIVER, CANCEL_OK = (60, 60), (60, 31)
#: Small, so that bodies of more than one frame are common.
FRAME_MAX = 1024

texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.text(st.characters(codec="utf-8"), max_size=10).filter(lambda text: len(text.encode()) < 128)
plain = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(2**62), 2**62), texts, st.binary(max_size=9), st.floats(allow_nan=False))
)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)
properties = st.fixed_dictionaries(
    {},
    optional={
        "content_type": st.just("application/json"),
        "content_encoding": st.sampled_from(["utf-8", "binary", "latin-1"]),
        "application_headers": st.dictionaries(names, values, max_size=6),
        "delivery_mode": st.just(2),
        "priority": st.integers(0, 9),
        "correlation_id": names,
        "reply_to": names,
        "timestamp": st.integers(0, 2**40),
        "cluster_id": names,
    },
)
bodies = st.binary(max_size=40) | st.integers(900, 3000).map(lambda size: b"x" * size)
deliveries = st.tuples(st.sampled_from(["ours", "other"]), st.integers(1, 2), st.booleans(), names, bodies, properties)


def written(frame: Callable[[Any], object]) -> bytes:
    """The bytes that py-amqp writes."""
    sent: list[bytes] = []
    transport = SimpleNamespace(write=lambda data: sent.append(bytes(data)))
    frame(frame_writer(SimpleNamespace(frame_max=FRAME_MAX, bytes_sent=0), transport))
    return b"".join(sent)


def delivery(number: int, one: tuple[str, int, bool, str, bytes, dict[str, Any]]) -> bytes:
    consumer, channel, redelivered, queue, body, props = one
    arguments = dumps("sLbss", (consumer, number, redelivered, "", queue))
    return written(lambda write: write(1, channel, DELIVER, arguments, Message(body, **props)))


@contextmanager
def reading(
    read: Callable[[Any, Any], Callable[[], object]],
    pair: Callable[[], tuple[socket.socket, socket.socket]] = socket.socketpair,
) -> Iterator[tuple[socket.socket, Callable[[], object], Any]]:
    """The far end of a connection, what reads its near end, and the list of what came: (consumer's view of a message)."""
    came: list[Any] = []
    near, far = pair()
    with closing(near), closing(far):
        near.settimeout(5)
        transport = TCPTransport("localhost")
        transport.sock = near
        transport._setup_transport()
        amqp = SimpleNamespace(transport=transport, sock=near, bytes_recv=0)

        def on_method(channel: int, signature: tuple[int, int], arguments: bytes, content: Any) -> None:
            if signature != DELIVER:
                came.append((channel, signature))
                return
            (consumer, tag, redelivered, exchange, queue), _ = loads("sLbss", arguments, 4)
            info = {
                "consumer_tag": consumer, "delivery_tag": tag, "redelivered": redelivered,
                "exchange": exchange, "routing_key": queue,
            }  # fmt: skip
            came.append((info, content.properties, content.body or b""))

        amqp.on_inbound_frame = frame_handler(amqp, on_method)
        amqp.blocking_read = lambda: amqp.on_inbound_frame(transport.read_frame())

        def ours(content: Any) -> None:
            assert content.delivery_tag == content.delivery_info["delivery_tag"]
            came.append((content.delivery_info, content.properties, content.body))

        channel = SimpleNamespace(channel_id=1, is_closing=False, callbacks={"ours": ours})
        yield far, read(amqp, channel), came


@given(data=st.data(), several=st.lists(deliveries, max_size=6), read_at_once=st.sampled_from([64, 65_536]))
def test_a_message_is_the_same_as_py_amqp_reads_it_wherever_the_stream_is_cut(
    data: st.DataObject, several: list[Any], read_at_once: int
) -> None:
    frames: list[bytes] = []
    for number, one in enumerate(several, start=1):
        frames.append(delivery(number, one))
        if data.draw(st.booleans()):
            frames.append(b"\x08\x00\x00\x00\x00\x00\x00\xce")  # a heartbeat
        if data.draw(st.booleans()):
            frames.append(written(lambda write: write(1, 1, CANCEL_OK, dumps("s", ("ours",)), None)))
    stream = b"".join(frames)
    with reading(lambda amqp, channel: amqp.blocking_read) as (far, read, expected):
        far.sendall(stream)
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(OSError, match="unexpectedly closed"):
            collections.deque(iter(read, None), maxlen=0)  # nothing it returns is None
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    with (
        pytest.MonkeyPatch.context() as patch,
        reading(lambda amqp, channel: AmqpFrames(amqp, channel).take_in) as (far, read, came),
    ):
        for name, size in (("_CHUNK", 1), ("_SMALL", 0.25), ("_LARGE_CHUNK", 16), ("_UNFINISHED", 4)):
            patch.setattr(amqp_frames, name, int(size * read_at_once))
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            far.sendall(stream[start:end])
            while read():
                pass
        assert came == expected
        assert not read(), "nothing is there, and nobody waits for it"
        far.close()
        with pytest.raises(ConnectionResetError):
            read()


def alike(number: int, **differs: Any) -> bytes:
    """A message of one sender."""
    headers = {
        "id": f"{number:036}", "task": "tasks.a", "retries": 0, "none": None, "limits": [None, 3], "stamps": {"a": "b"},
        "sent": f"2026-01-31T12:00:{number:02}Z", **differs,
    }  # fmt: skip
    sent = {
        "content_type": "application/json", "content_encoding": "utf-8", "application_headers": headers,
        "delivery_mode": 2, "priority": 0, "correlation_id": f"{number:036}", "reply_to": "r",
    }  # fmt: skip
    return delivery(number, ("ours", 1, False, "q", b"[]" * (number % 3), sent))


changes = st.fixed_dictionaries(
    {},
    optional={
        "task": st.sampled_from(["tasks.b", "tasks.é"]), "retries": st.integers(1, 3), "none": st.just("a text"),
        "limits": st.sampled_from([[2, 3], [None, [1]]]), "stamps": st.just({"a": "c"}), "sent": st.just("never"),
        "id": st.just(3), "more": st.just({"deep": {"deeper": [1]}}),
    },
)  # fmt: skip


@given(several=st.lists(changes, min_size=1, max_size=12), redelivered=st.booleans())
def test_messages_that_look_alike_are_read_as_py_amqp_reads_each(several: list[Any], redelivered: bool) -> None:
    stream = b"".join(alike(number, **differs) for number, differs in enumerate([{}, {}, {}, *several, {}], start=1))
    if redelivered:
        stream += alike(50).replace((50).to_bytes(8, "big") + b"\x00", (50).to_bytes(8, "big") + b"\x01", 1)
    views = []
    for read_by in (lambda amqp, channel: amqp.blocking_read, lambda amqp, channel: AmqpFrames(amqp, channel).take_in):
        with reading(read_by) as (far, read, came):
            far.sendall(stream)
            while len(came) < len(several) + 4 + redelivered:
                read()
            views.append(came)
    assert views[0] == views[1]
    headers = [props["application_headers"] for _, props, _ in views[1]]
    assert len({id(each["stamps"]) for each in headers}) == len(headers), "its receiver may change it"


def test_of_messages_that_look_alike_only_the_first_are_read_field_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[int] = []
    table = amqp_frames._table
    monkeypatch.setattr(amqp_frames, "_table", lambda *given: (tables.append(1), table(*given))[1])
    with reading(lambda amqp, channel: AmqpFrames(amqp, channel).take_in) as (far, read, came):
        far.sendall(b"".join(alike(number) for number in range(1, 40)))
        while len(came) < 39:
            read()
    outer = 2  # of each message, and what is inside of it
    assert len(tables) <= 4 * outer


def test_lengths_of_which_no_two_messages_are_alike_are_left_alone() -> None:
    shapes = MessageShapes()
    for number in range(200):
        message = alike(7, task=f"{number:05}"[::-1], **{f"n{number % 7:03}": "x"})
        at = message.index(b"\x00\x3c\x00\x3c") + 4
        header_at = at - 11 + 8 + int.from_bytes(message[3:7], "big")
        body_at = header_at + 8 + int.from_bytes(message[header_at + 3 : header_at + 7], "big")
        if shapes.read(message, at, header_at, body_at) is None:
            shapes.learn(
                message[at:body_at], header_at - at, amqp_frames._delivery(message[at:]),
                amqp_frames._properties(
                    message, header_at + 21, int.from_bytes(message[header_at + 19 : header_at + 21], "big"), body_at - 1
                ),
            )  # fmt: skip
    assert list(shapes._shapes.values()) == [None]


def test_large_messages_that_follow_each_other_take_few_reads_and_small_ones_a_small_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(globals(), "FRAME_MAX", 131_072)
    large = b"".join(delivery(number, ("ours", 1, False, "q", b"x" * 100_000, {})) for number in range(1, 21))
    small = delivery(21, ("ours", 1, False, "q", b"[]", {}))
    sizes: list[int] = []

    def piece(_: int, size: int) -> bytes:
        nonlocal large
        sizes.append(size)
        found, large = large[:size], large[size:]
        return found or small

    def into(descriptor: int, rooms: list[memoryview]) -> int:
        (room,) = rooms
        found = piece(descriptor, len(room))
        room[: len(found)] = found
        return len(found)

    monkeypatch.setattr(amqp_frames, "os", SimpleNamespace(read=piece, readv=into))
    with reading(lambda amqp, channel: AmqpFrames(amqp, channel).take_in) as (_, read, came):
        turns = 0
        while len(came) < 20:
            read()
            turns += 1
        assert turns <= 4, "each is a turn of the consumer"
        read()
        read()
        assert len(came) == 22
        assert sizes[-1] < 100_000, "memory for a burst is taken only where there is one"


def test_of_a_body_in_many_frames_what_follows_is_not_copied_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = delivery(1, ("ours", 1, False, "q", b"x" * 60_000, {}))
    left: list[int] = []
    with reading(lambda amqp, channel: left_behind(amqp, left, AmqpFrames(amqp, channel).take_in)) as (far, read, came):
        far.sendall(stream)
        read()
        assert [len(body) for _, _, body in came] == [60_000]
        assert len(set(left)) <= 5, "the rest of the stream was cut out anew for every frame"


def left_behind(amqp: Any, left: list[int], read: Callable[[], object]) -> Callable[[], object]:
    """The same; ``left`` has how much of the stream lay behind each frame that py-amqp was given."""
    take = amqp.on_inbound_frame

    def noted(frame: object) -> object:
        left.append(len(amqp.transport._read_buffer))
        return take(frame)

    amqp.on_inbound_frame = noted
    return read


def over_tls(folder: Path) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection whose far end has a certificate."""
    papers = Authority(folder, "ca").pair("localhost")
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(papers.cert, papers.key)
    client.load_verify_locations(folder / "ca.pem")
    near, far = socket.socketpair()
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(server.wrap_socket, far, server_side=True)
        return client.wrap_socket(near, server_hostname="localhost"), accepted.result(10)


def test_a_large_message_over_tls_takes_few_reads_and_is_handed_over_before_the_end_of_the_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(globals(), "FRAME_MAX", 131_072)
    large = delivery(1, ("ours", 1, False, "q", b"x" * 100_000, {}))
    with reading(lambda amqp, channel: AmqpFrames(amqp, channel).take_in, partial(over_tls, tmp_path)) as (
        far,
        read,
        came,
    ):
        far.sendall(large)
        far.close()
        read()
        read()
        assert [len(body) for _, _, body in came] == [100_000], (
            "of its seven records each would be a turn of the consumer"
        )
        with pytest.raises(OSError, match="closed"):
            read()


def test_what_was_begun_here_can_be_read_on_by_py_amqp_and_the_other_way_round() -> None:
    envelope = encode_task(TaskMessage("t-1", "tasks.a", args=(1,), queue="q"))
    message = {"content_type": "application/json", "application_headers": envelope.headers}
    stream = b"".join(delivery(n, ("ours", 1, False, "q", envelope.body, message)) for n in (1, 2))
    for cut in range(len(stream)):
        with reading(lambda amqp, channel: (AmqpFrames(amqp, channel).take_in, amqp)) as (far, readers, came):
            take_in, amqp = readers  # type: ignore[misc]
            far.sendall(stream[:cut])
            take_in()
            far.sendall(stream[cut:])
            while not came:
                amqp.blocking_read()
            take_in()
            assert [info["delivery_tag"] for info, *_ in came] == [1, 2]
            assert {body for *_, body in came} == {envelope.body}


def test_a_frame_without_its_end_is_an_error_and_a_message_for_nobody_is_py_amqps() -> None:
    stream = delivery(1, ("ours", 1, False, "q", b"[]", {}))
    for at in (-1, -11):  # the body's end, and the header's
        broken = stream[:at] + b"\x00" + stream[at + 1 :] if at != -1 else stream[:-1] + b"\x00"
        with reading(lambda amqp, channel: AmqpFrames(amqp, channel).take_in) as (far, read, came):
            far.sendall(broken)
            with pytest.raises(UnexpectedFrame):
                read()
            assert not came


def test_g17_headers_nested_without_end_are_a_message_without_headers() -> None:
    deepest = 3000
    table = b""
    for _ in range(deepest):
        inner = b"\x01aF" + len(table).to_bytes(4, "big") + table
        table = inner
    table = len(table).to_bytes(4, "big") + table
    header = b"\x00\x3c\x00\x00" + (2).to_bytes(8, "big") + b"\x20\x00" + table

    def framed(kind: int, payload: bytes) -> bytes:
        return bytes([kind, 0, 1]) + len(payload).to_bytes(4, "big") + payload + b"\xce"

    arguments = dumps("sLbss", ("ours", 1, False, "", "q"))
    stream = framed(1, b"\x00\x3c\x00\x3c" + arguments) + framed(2, header) + framed(3, b"[]")
    with reading(lambda amqp, channel: AmqpFrames(amqp, channel).take_in) as (far, read, came):
        far.sendall(stream)
        read()
    assert [(props, body) for _, props, body in came] == [({"application_headers": {}}, b"[]")]
