"""What fuzzing has found, each as a test of its own at the door where it was found."""

from __future__ import annotations

import bz2
import json
import lzma
import os
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.stored import parsed_record
from stem_kombu.celery_monitors.pidbox import PidboxServer
from stem_kombu.clock import parse_isoformat
from stem_kombu.control.client.reports import Report, WorkerReply
from stem_kombu.control.protocol.codec import decode_command, decode_reply
from stem_kombu.errors import BadMessage, ConfigurationError, StoreCorrupt
from stem_kombu.execution.frames import ExtendLease, FrameReader, ProtocolFault, Ready, encode
from stem_kombu.fields import FieldError
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.messages.decompression import TooMuch, limit_decompression, unpacked
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.stores import redis as redis_store
from stem_kombu.stores import redis_pages, sql_rows
from stem_kombu.stores.batch import proofs_of
from stem_kombu.stores.file import FileRevokeStore
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.payloads import message_of
from stem_kombu.urls import file_path, sqlite_path
from stem_kombu_cli.commands import worker_ping, worker_stats
from stem_kombu_cli.commands.asking import readable_part

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
RECORD = Revocation("stem", "t-1", 7, NOW, True, "why", "me").to_record()


# -- revocations ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2**53},
        {"version": True},
        {"version": 10**400},
        {"task_id": ""},
        {"task_id": "a\nb"},
        {"task_id": "\ud800"},
        {"task_id": "x" * 600},
        {"reason": "\ud800"},
        {"reason": "\0"},
        {"reason": "x" * 2001},
        {"requested_by": {"a": 1}},
        {"namespace": "\ud800"},
        {"terminate": "false"},
        {"issued_at": "0001-01-01T00:00:00+23:59"},
        {"expires_at": "9999-12-31T23:59:59-23:59"},
        {"proofs": "text"},
        {"proofs": [1]},
        {"proofs": ["\0"]},
    ],
)
def test_a_revocation_that_no_store_can_hold_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(FieldError, match=r"is|holds|proofs|characters"):
        Revocation.from_record({**RECORD, **changes})


def test_a_time_that_its_offset_carries_out_of_the_calendar_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="calendar"):
        parse_isoformat("0001-01-01T00:00:00+23:59")


@pytest.mark.parametrize("text", ['"abc"', "5", "{}", "[1]", "[" * 100_000])
def test_proofs_that_are_no_list_of_texts_are_none(text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        proofs_of(text)


# -- the file of revocations ----------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Callable[[str], str]], FileRevokeStore]:
    """A store whose file somebody has changed."""

    def write(change: Callable[[str], str]) -> FileRevokeStore:
        path = tmp_path / "revokes.json"
        first = FileRevokeStore(path)
        first.save("stem", [RevocationDraft("t-1", expires_in=3600.0)])
        first.save("stem", [RevocationDraft("t-2", reason="why")])
        path.write_text(change(path.read_text()), encoding="utf-8", errors="surrogateescape")
        return FileRevokeStore(path)

    return write


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"expires_at":"2', '"expires_at":"namespace'),
        lambda text: text.replace('"expires_at":"', '"expires_at":'),
        lambda text: text.replace('"expires_at":"2', '"expires_at":"\udcb8'),
        lambda text: text.replace('"task_id":"t-2",', '"task_id":"t-2",', 1).replace(
            '"reason"', '"task_id":"t-9","reason"'
        ),
        lambda text: text.replace('"reason"', '"namespace":"other","reason"'),
        lambda text: text.replace('"reason":"why"', '"reason":' + "[" * 5000),
        lambda text: text + text.splitlines()[1] + "\n",
        lambda text: text.replace('"version":', '"version":' + "9" * 20),
        lambda text: text.replace('"version":', '"version":' + "9" * 5000),
    ],
    ids=["no time", "no quote", "no UTF-8", "two tasks", "two namespaces", "deep", "order", "version", "digits"],
)
def test_g37_a_line_that_was_changed_is_named_and_not_believed(
    written: Callable[..., FileRevokeStore], change: Callable[[str], str]
) -> None:
    store = written(change)

    found = [record.task_id for record in store.since("stem", 0)]

    assert found in ([], ["t-1"], ["t-2"], ["t-1", "t-2"])
    assert store.quarantine.of("stem")
    store.save("stem", [RevocationDraft("t-1"), RevocationDraft("t-2")])
    assert [record.task_id for record in store.since("stem", 0)] == ["t-1", "t-2"]


# -- rows -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task_ids", "records"),
    [
        *((page, page) for page in ("5", "[5]", "[[1]]", "[" * 100_000, '"ab"', "NaN")),
        *(
            ('["t-1"]', page)
            for page in ("[]", "[null]", "[5]", '["ab"]', '[{"version": 1}]', "[{},{}]", "[" * 100_000)
        ),
    ],
)
def test_a_page_of_redis_that_is_none_holds_no_record(task_ids: str, records: str) -> None:
    with pytest.raises(redis_store.UNREADABLE):
        _records_of(task_ids, records)


def _records_of(task_ids: str, records: str) -> list[Revocation]:
    page = redis_pages.parsed(task_ids.encode(), b"[null]", records.encode(), b"[1]")
    assert not page.columns()
    return [redis_store.record_of("stem", *one) for one in zip(page.task_ids, page.records(), strict=True)]


@pytest.mark.parametrize(
    "row",
    [
        ("t-1", "7", 0, 0, None, None, None, None),
        ("t-1", 7, 0.5, 0, None, None, None, None),
        ("t-1", 7, float("nan"), 0, None, None, None, None),
        ("t-1", 7, 0, 2, None, None, None, None),
        ("t-1", 7, 0, 0, b"blob", None, None, None),
        (5, 7, 0, 0, None, None, None, None),
        ("t-1", 7, 0, 0, None, None, None, '"ab"'),
    ],
)
def test_a_row_of_sqlite_of_other_types_holds_no_record(row: tuple[Any, ...]) -> None:
    with pytest.raises((TypeError, ValueError)):
        sql_rows.record_of("stem", row)


@pytest.mark.parametrize(
    "text",
    [
        '["failed",1,\n"q",\n"w",\nnull,\nnull,\n{"name":"a","error":{"type":["E"],"message":"m"}}]',
        '["failed",1,\n"q",\n"w",\nnull,\nnull,\n{"name":["a"]}]',
        '["queued",9223372036854775808,\n"q",\n"w",\nnull,\nnull,\n{"name":"a"}]',
        '["queued",1,\n"q\\u0000",\n"w",\nnull,\nnull,\n{"name":"a"}]',
        '["succeeded",1,\n"q",\n"w",\nnull,\nnull,\n{"name":"a","result":NaN}]',
        '["succeeded",1,\n"q",\n"w",\nnull,\nnull,\n{"name":"a","result":1e999}]',
        '["queued",1,\n"q",\n"w",\ntrue,\n0.5,\n{"name":"a"}]',
    ],
)
def test_a_record_that_no_backend_could_write_is_corrupt(text: str) -> None:
    with pytest.raises(StoreCorrupt):
        parsed_record("t-1", text, place="here")


# -- control messages -----------------------------------------------------------------------------------------------------


def test_a_number_that_overflows_is_no_json() -> None:
    body = b'{"v":1,"id":"r","ns":"stem","worker":"w","boot":"b","part":0,"status":"ok","payload":{"n":1e999}}'
    with pytest.raises(BadMessage):
        decode_reply(body)
    with pytest.raises(BadMessage):
        decode_command(body, known=lambda name: True)


BEAT = Heartbeat("stem", "w", "b", "i", 10.0, "host", 1, "0.1.0", queues=("q",), totals={"received": 1}, timestamp=NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"worker": ["w"]},
        {"worker": "\ud800"},
        {"worker": ""},
        {"hostname": "x" * 5000},
        {"pid": "1"},
        {"pid": 1.5},
        {"load_avg": float("nan")},
        {"uptime_s": float("inf")},
        {"interval_s": "10"},
        {"queues": "abc"},
        {"totals": [["received", 1]]},
        {"totals": {"received": -1}},
        {"timestamp": 5},
    ],
)
def test_a_heartbeat_that_no_worker_sends_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(FieldError):
        Heartbeat.from_record({**BEAT.to_record(), **changes})


@pytest.mark.parametrize("text", [worker_stats.text, worker_ping.text])
def test_an_answer_in_a_strange_form_does_not_hide_the_others(text: Callable[..., str]) -> None:
    good: dict[str, Any] = {
        "state": "running", "uptime_s": 1.0, "version": "0", "hostname": "h", "pid": 1, "rss_bytes": 1, "load_avg": None,
        "in_flight": 0, "reserved": 0, "concurrency": 1, "prefetch": 1, "totals": {}, "broker": "b", "transport": "t",
        "backend": None, "revoked_count": 0, "revoke_store": "s", "queues": {"default": {"depth": 1, "consuming": True}},
        "pool": [],
    }  # fmt: skip
    replies = (WorkerReply("good", 0.1, good), WorkerReply("odd", 0.1, {"uptime_s": "long", "queues": 5}))
    report = Report("stats", "stem", "r", 5.0, 0.1, ("good", "odd"), (), replies)
    readable, unreadable = readable_part(report, text)
    assert unreadable == ["odd"]
    assert "good" in text(readable, False)


# -- task messages --------------------------------------------------------------------------------------------------------


def delivery(headers: dict[str, Any], body: str = "[[], {}, {}]") -> Any:
    held = {
        "body": body, "content-type": "application/json", "content-encoding": "utf-8",
        "headers": {"task": "a", "id": "t-1", **headers}, "properties": {"delivery_info": {}},
    }  # fmt: skip
    return message_of(json.dumps(held).encode(), "tag", "default", open_connection("memory://findings").channel())


@pytest.mark.parametrize(
    "limits", [[10**400, None], [float("nan"), None], [None, float("inf")], [1e300, 1], ["1", None]]
)
def test_a_time_limit_that_is_no_span_is_a_bad_message(limits: list[Any]) -> None:
    with pytest.raises(BadMessage, match="timelimit"):
        decode_delivery(delivery({"timelimit": limits}))


def test_a_root_as_long_as_an_id_may_be_is_kept() -> None:
    message = decode_delivery(delivery({"root_id": "r" * 500})).message
    assert message.celery is not None
    assert message.celery.root_id == "r" * 500


@pytest.mark.parametrize(
    ("kind", "compress"),
    [
        ("application/x-gzip", zlib.compress),
        ("application/x-bz2", bz2.compress),
        ("application/x-lzma", lzma.compress),
        ("gzip", zlib.compress),
    ],
)
def test_g17_a_compressed_body_is_unpacked_no_further_than_its_bound(
    kind: str, compress: Callable[[bytes], bytes]
) -> None:
    bomb = compress(bytes(1 << 25))
    tracemalloc.start()
    try:
        with pytest.raises(TooMuch, match="more than"):
            unpacked(bomb, kind, 1 << 16)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 24, "most of it was unpacked"
    assert unpacked(compress(b"x" * (1 << 16)), kind, 1 << 16) == b"x" * (1 << 16)
    with pytest.raises(TooMuch, match="cut short"):
        unpacked(compress(os.urandom(1000))[:-5], kind, 1 << 16)


def test_a_message_with_too_much_in_it_is_a_bad_message() -> None:
    channel = limit_decompression(limit_decompression(open_connection("memory://bombs").channel(), 1000), 1000)
    for size, readable in ((10, True), (100_000, False)):
        body = zlib.compress(b'[["' + b"x" * size + b'"],{},{}]').hex()
        held = {
            "body": __import__("base64").b64encode(bytes.fromhex(body)).decode(), "content-type": "application/json",
            "content-encoding": "utf-8", "headers": {"task": "a", "id": "t", "compression": "application/x-gzip"},
            "properties": {"delivery_info": {}, "body_encoding": "base64"},
        }  # fmt: skip
        message = message_of(json.dumps(held).encode(), "tag", "default", channel)
        if readable:
            assert decode_delivery(message).message.args == ("x" * size,)
        else:
            with pytest.raises(BadMessage, match="more than 1000 bytes"):
                decode_delivery(message)


# -- frames ---------------------------------------------------------------------------------------------------------------


def test_a_frame_that_lacks_a_part_breaks_the_protocol() -> None:
    hollow = encode(ExtendLease(77, 1.0))[8:].replace(b"K\x4d", b"N")  # its token becomes None
    with pytest.raises(ProtocolFault):
        list(FrameReader().feed(struct.pack("!Q", len(hollow)) + hollow))
    for other in ({"no": "frame"}, (99,), (-1, 1, None, "succeeded"), (5,), [], (1, 5, "t")):
        body = pickle.dumps(other)
        with pytest.raises(ProtocolFault):
            list(FrameReader().feed(struct.pack("!Q", len(body)) + body))
    assert list(FrameReader().feed(encode(Ready(1)))) == [Ready(1)]


# -- places ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///a%00b", "file:///a%00b", "/", "//", "file:///", "~no-such-user-here/x", "sqlite://[1]/x", "file://]x[/y",
        "redis://[1]:6379/0", "redis://h/0?ssl_cert_reqs=\udce5", "postgresql:///db?host=\udca3", "sqlite:///\udca3",
        "a/\0b", "post\udca3gr:/x://y", "redis://h\n/0",
    ],
)  # fmt: skip
def test_a_url_that_names_nothing_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError):
        open_revoke_store(url, name="--revoke-store")
    with pytest.raises(ConfigurationError):
        (sqlite_path if url.startswith("sqlite") else file_path)(url, name="--revoke-store")
    with pytest.raises(ConfigurationError):
        open_connection(url, name="--broker")


def test_a_password_with_a_line_break_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_revoke_store("redis://user:top\nsecret@host/0", name="--revoke-store")
    assert "secret" not in str(refused.value)


def test_a_password_in_the_query_of_the_embedded_broker_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_connection("sqlite:///tmp/x.db?at=redis://user:hunter2-0e1f@h/0", name="--broker")
    assert "hunter2" not in f"{refused.value} {refused.value.hint}"


# -- Celery's remote control ----------------------------------------------------------------------------------------------


REPLY_TO = {"exchange": "reply.celery.pidbox", "routing_key": "k"}


@pytest.mark.parametrize(
    "body",
    [
        [], None, 5, {}, {"method": 5}, {"method": "no-such"}, {"method": "ping", "arguments": [1]},
        {"method": "ping", "destination": "worker@host"}, {"method": "ping", "pattern": "(a+)+$", "matcher": "pcre"},
        {"method": "ping", "reply_to": {"exchange": "", "routing_key": "default"}}, {"method": "ping", "reply_to": 5},
        {"method": "ping", "ticket": {"a": 1}}, {"method": "ping", "reply_to": {**REPLY_TO, "routing_key": ["k"]}},
    ],
)  # fmt: skip
def test_what_is_no_command_of_celery_is_refused(body: Any) -> None:
    said: list[Any] = []
    board = PidboxServer("w@host", {"ping": lambda state: {"ok": "pong"}}, lambda *answer: said.append(answer))
    with pytest.raises(BadMessage):
        board.heard(body)
    assert said == []


def test_a_command_of_celery_that_fails_is_answered_with_what_failed() -> None:
    said: list[Any] = []
    board = PidboxServer("w@host", {"ping": lambda state: {"ok": "pong"}}, lambda *answer: said.append(answer))
    assert board.heard({"method": "ping", "arguments": {"no": 1}, "reply_to": REPLY_TO, "ticket": "1"})
    assert board.heard({"method": "ping", "reply_to": REPLY_TO, "destination": ["w@host"], "ticket": "2"})
    assert board.heard({"method": "ping", "reply_to": REPLY_TO, "pattern": "w@*", "matcher": "glob"})
    assert not board.heard({"method": "ping", "reply_to": REPLY_TO, "destination": ["other@host"]})
    (first, second, third) = said
    assert "TypeError" in first[0]["w@host"]["error"]
    assert second == ({"w@host": {"ok": "pong"}}, "k", "2")
    assert third == ({"w@host": {"ok": "pong"}}, "k", None)
