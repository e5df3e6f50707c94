"""What is done for each command, task and checkpoint costs no more than it did.

Counted, not timed, so that a busy machine changes nothing: the interpreter's own instructions, and calls of functions written in
C, each counted as ten. A change for the worse of more than a quarter fails. What a step costs in nanoseconds is measured by
``make bench``.

When a change is worth what it costs, or makes something cheaper, write the new figures down here: a failure prints them, and
``python tests/test_costs.py`` prints all. Interpreters differ, so figures are kept by version; with one that has none the
bound is three quarters more than the others' highest.
"""

from __future__ import annotations

import os
import platform
import sys
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from stem_kombu import Stem
from stem_kombu.clock import SYSTEM, epoch_us
from stem_kombu.context import TaskContext
from stem_kombu.control.client.command_request import chunks
from stem_kombu.control.protocol.codec import decode_command, decode_reply, encode_command, encode_reply
from stem_kombu.control.protocol.messages import Command, Ping, Reply, Revoke
from stem_kombu.control.server.command_server import CommandServer
from stem_kombu.execution import frames
from stem_kombu.execution.child import main as child
from stem_kombu.execution.handlers import Ending, Outcome
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.messages.encoding import encode_task
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.revocation_page import RevocationPage, page_of
from stem_kombu.stores.sqlite import SqliteRevokeStore
from stem_kombu.task import TaskMessage
from stem_kombu.transports import names
from stem_kombu.transports.amqp.message_frames import message_frames, publish_method
from stem_kombu.transports.publisher import OutgoingMessage
from stem_kombu.transports.redis.publisher import pushed, queue_text
from tests.control.fleet import FakeWorker, identity

CALL_OF_C = 10
WORSE, WORSE_ELSEWHERE = 1.25, 1.75
NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)

#: Steps of each, by version of CPython.
RECORDED: dict[str, dict[str, int]] = {
    "3.10": {
        "a checkpoint in a hot loop": 33,
        "a checkpoint that looks into its pipe": 90,
        "a ping, from bytes to its answer's": 3338,
        "decode a command of a hundred revocations": 3997,
        "hold what it revokes": 6439,
        "encode a command": 591,
        "decode a reply": 901,
        "encode a reply": 263,
        "look up an id that is revoked": 525,
        "look up an id that is not": 46,
        "encode a task": 1389,
        "a task as frames of AMQP": 1245,
        "a call as a message": 883,
        "a push to Redis": 472,
        "decode a task": 1657,
        "a job's frames": 1016,
    },
    "3.11": {
        "a checkpoint in a hot loop": 67,
        "a checkpoint that looks into its pipe": 127,
        "a ping, from bytes to its answer's": 3533,
        "decode a command of a hundred revocations": 4174,
        "hold what it revokes": 6414,
        "encode a command": 655,
        "decode a reply": 979,
        "encode a reply": 292,
        "look up an id that is revoked": 545,
        "look up an id that is not": 79,
        "encode a task": 1425,
        "a task as frames of AMQP": 1353,
        "a call as a message": 774,
        "a push to Redis": 400,
        "decode a task": 1411,
        "a job's frames": 609,
    },
    "3.12": {
        "a checkpoint in a hot loop": 40,
        "a checkpoint that looks into its pipe": 118,
        "a ping, from bytes to its answer's": 3268,
        "decode a command of a hundred revocations": 3967,
        "hold what it revokes": 6078,
        "encode a command": 604,
        "decode a reply": 914,
        "encode a reply": 277,
        "look up an id that is revoked": 538,
        "look up an id that is not": 74,
        "encode a task": 1412,
        "a task as frames of AMQP": 1261,
        "a call as a message": 874,
        "a push to Redis": 474,
        "decode a task": 1679,
        "a job's frames": 1039,
    },
    "3.13": {
        "a checkpoint in a hot loop": 40,
        "a checkpoint that looks into its pipe": 60,
        "a ping, from bytes to its answer's": 1789,
        "decode a command of a hundred revocations": 1404,
        "hold what it revokes": 1978,
        "encode a command": 216,
        "decode a reply": 534,
        "encode a reply": 80,
        "look up an id that is revoked": 138,
        "look up an id that is not": 40,
        "encode a task": 638,
        "a task as frames of AMQP": 571,
        "a call as a message": 340,
        "a push to Redis": 272,
        "decode a task": 715,
        "a job's frames": 487,
    },
}


def steps(act: Callable[[], object]) -> int:
    """How many steps the interpreter takes for the call; the second time, when everything is in its caches."""
    act()
    count = 0

    def traced(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return traced

    def profiled(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += CALL_OF_C if event == "c_call" else 0

    before = sys.gettrace(), sys.getprofile()
    sys.setprofile(profiled)
    sys.settrace(traced)
    try:
        act()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    return count


def message() -> TaskMessage:
    return TaskMessage(
        task_id=str(uuid.UUID(int=7)), name="tasks.render", args=(1, "two"), kwargs={"three": 3.0}, queue="default",
        enqueued_at=NOW,
    )  # fmt: skip


def command(order: Any) -> Command:
    return Command(
        request_id="1" * 32, namespace="stem", order=order, issued_at=NOW, expires_at=NOW + timedelta(seconds=5),
        reply_to=names.reply_name("stem", "client"), sender="ada@host",
    )  # fmt: skip


class Delivered:
    """A Kombu message, as far as it is looked at."""

    def __init__(self, sent: TaskMessage) -> None:
        envelope = encode_task(sent)
        self.body, self.headers = envelope.body, envelope.headers
        self.properties: dict[str, Any] = dict(envelope.properties)
        self.content_type, self.content_encoding = "application/json", "utf-8"
        self.delivery_info = {"exchange": "", "routing_key": "default"}
        self.delivery_tag, self.errors = 1, ()


@contextmanager
def measured() -> Iterator[dict[str, Callable[[], object]]]:
    """What is counted, by name."""
    reading, writing = os.pipe()
    signals = child.ChildSignals(child.ChildPipe(reading), 1, "t")
    context = TaskContext(signals, task_id="t", name="n", attempt=1, queue="q", headers={})
    signals._next_report = 1e12

    def checkpoint(next_look: float) -> None:
        signals._next_look = next_look
        context.check()

    reception = CommandServer(
        FakeWorker(identity("alpha")), {}, later=lambda to, body: None, roster_now=NOW.timestamp, clock=SYSTEM
    )
    reception.open()
    pings = (encode_command(command(Ping()))[:-1] + b',"n":%d}' % n for n in range(10))
    ids = (str(uuid.UUID(int=number)) for number in range(10))

    def fresh_ping() -> None:
        body = next(pings).replace(b"1" * 32, next(ids).replace("-", "").encode())
        reception.receive(body, lambda to, answer: None)

    records = [Revocation("stem", str(uuid.UUID(int=n)), n + 1, NOW, True, "why", "who", None) for n in range(2000)]
    cache = RevocationCache("stem")
    cache.apply(records, NOW)
    # Where the search for an id begins changes with each process: of many, one that finds what it looks for at once.
    held, absent = (
        min(ids, key=lambda task_id: steps(lambda: cache.get(task_id)))
        for ids in ([record.task_id for record in records[1000:1030]], [f"absent-{n}" for n in range(30)])
    )
    orders = encode_command(command(Revoke(tuple(records[:100]))))
    told = decode_command(orders, known=lambda name: False).order
    assert isinstance(told, Revoke)
    reply = Reply("1" * 32, "stem", "alpha", "boot", {"state": "running", "queues": ["default"], "pid": 1})
    answer = encode_reply(reply)
    delivered, sent = Delivered(message()), message()
    envelope = encode_task(sent)
    application = Stem("costs", broker="redis://127.0.0.1:1/0")
    outgoing = OutgoingMessage("default", envelope)
    finished = frames.Finished(1, Outcome(Ending.SUCCEEDED), 1000)
    run = frames.encode(frames.Run(1, sent))
    yield {
        "a checkpoint in a hot loop": lambda: checkpoint(1e12),
        "a checkpoint that looks into its pipe": lambda: checkpoint(0.0),
        "a ping, from bytes to its answer's": fresh_ping,
        "decode a command of a hundred revocations": lambda: decode_command(orders, known=lambda name: False),
        "hold what it revokes": lambda: RevocationCache("stem").apply(told.revocations, NOW),
        "encode a command": lambda: encode_command(command(Ping())),
        "decode a reply": lambda: decode_reply(answer),
        "encode a reply": lambda: encode_reply(reply),
        "look up an id that is revoked": lambda: cache.get(held),
        "look up an id that is not": lambda: cache.get(absent),
        "encode a task": lambda: encode_task(sent),
        "a task as frames of AMQP": lambda: message_frames(envelope, publish_method("", "default", True), 1, 131_064),
        "a call as a message": lambda: application._message("tasks.render", (1, "two"), None, {"queue": "default"}),
        "a push to Redis": lambda: pushed("default", queue_text(outgoing)),
        "decode a task": lambda: decode_delivery(delivered),
        "a job's frames": lambda: (list(frames.FrameReader().feed(run)), frames.encode(finished)),
    }
    reception.close()
    os.close(reading)
    os.close(writing)


def counted() -> dict[str, int]:
    with measured() as acts:
        return {name: steps(act) for name, act in acts.items()}


@pytest.mark.skipif(platform.python_implementation() != "CPython", reason="counts CPython's instructions")
def test_nothing_on_a_busy_path_costs_a_quarter_more_than_it_did() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    recorded, worse = RECORDED.get(version), WORSE
    if recorded is None:
        recorded = {name: max(figures[name] for figures in RECORDED.values()) for name in RECORDED["3.11"]}
        worse = WORSE_ELSEWHERE
    found = counted()
    assert found.keys() == recorded.keys()
    dearer = {name: (recorded[name], now) for name, now in found.items() if now > recorded[name] * worse + 2}
    assert dearer == {}, f"(recorded, now); all of them: {found}"


@pytest.mark.skipif(platform.python_implementation() != "CPython", reason="counts CPython's instructions")
def test_ten_thousand_ids_are_drafted_and_divided_into_messages_in_few_steps() -> None:
    ids = [str(uuid.UUID(int=number << 64 | number)) for number in range(1, 101)]
    records = [Revocation("stem", each, n, NOW, False, "why", "who", NOW) for n, each in enumerate(ids, 1)]

    def draft() -> None:
        for each in ids:
            RevocationDraft(each, False, "why", "who", 3600.0)

    assert steps(draft) / len(ids) < 360
    assert steps(lambda: chunks(records)) / len(records) < 210


def test_a_revocation_that_is_held_takes_ninety_bytes() -> None:
    ids = [str(uuid.UUID(int=number << 64 | number)) for number in range(80_000)]
    cache = RevocationCache("stem")
    tracemalloc.start()
    try:
        cache.apply((Revocation("stem", each, n, NOW, True, "why", "who", None) for n, each in enumerate(ids, 1)), NOW)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(cache) == len(ids)
    assert taken / len(ids) < 90


def test_a_page_of_revocations_takes_a_tenth_of_the_steps_of_its_records() -> None:
    count = 1000
    ids = [str(uuid.UUID(int=number << 64 | number)) for number in range(1, 20_000)]
    versions = iter(range(0, 20_000, count))

    def columns() -> list[list[Any]]:
        first = next(versions)
        same = [[epoch_us(NOW)] * count, [True] * count, ["why"] * count, ["who"] * count, [None] * count]
        return [ids[first : first + count], list(range(first, first + count)), *same]

    cache = RevocationCache("stem")

    def taken(columns: list[list[Any]]) -> RevocationPage:
        page = page_of("stem", columns)
        assert page is not None
        assert len(cache.apply(page, NOW).applied) == count
        return page

    page = taken(columns())
    rows = iter([columns(), columns()])
    by_page = steps(lambda: taken(next(rows)))

    def read(page: RevocationPage) -> None:
        one_by_one = RevocationCache("stem")
        one_by_one.apply((Revocation.from_record(one.to_record()) for one in page), NOW)

    by_record = steps(lambda: read(page))
    assert by_page / count < 120
    assert by_page * 10 < by_record


def test_a_worker_reads_revocations_from_a_file_in_a_tenth_of_the_steps_of_records(tmp_path: Path) -> None:
    store = SqliteRevokeStore(tmp_path / "revokes.db")
    store.save("stem", [RevocationDraft(str(uuid.UUID(int=number + 1)), reason="why") for number in range(1000)])

    by_page = steps(lambda: list(map(len, store.pages("stem"))))
    by_record = steps(lambda: [Revocation.from_record(one.to_record()) for one in store.load("stem")])

    assert by_page / 1000 < 80
    assert by_page * 10 < by_record


def test_a_text_of_an_array_for_postgresql_takes_few_steps_a_value() -> None:
    pytest.importorskip("psycopg2")
    from stem_kombu.drivers.postgres_session import array_text

    ids = [str(uuid.UUID(int=number << 64 | number)) for number in range(1000)]

    assert steps(lambda: array_text(ids)) / len(ids) < 50
    assert steps(lambda: array_text(["a bad deploy"] * 1000)) / len(ids) < 20


def test_the_count_tells_a_third_more_and_nothing_else_changes_it() -> None:
    def loop(rounds: int) -> int:
        return sum(number * number for number in range(rounds))

    short, again, long = steps(lambda: loop(300)), steps(lambda: loop(300)), steps(lambda: loop(400))
    assert short == again
    assert 1.3 < long / short < 1.36


if __name__ == "__main__":
    print("\n".join(f"        {name!r}: {count}," for name, count in counted().items()))
