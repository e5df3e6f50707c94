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
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from types import FrameType
from typing import Any

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.context import TaskContext
from stem_kombu.control.protocol.codec import decode_command, decode_reply, encode_command, encode_reply
from stem_kombu.control.protocol.messages import Command, Ping, Reply, Revoke
from stem_kombu.control.server.command_server import CommandServer
from stem_kombu.execution import frames
from stem_kombu.execution.child import main as child
from stem_kombu.execution.handlers import Ending, Outcome
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.messages.encoding import encode_task
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.task import TaskMessage
from stem_kombu.transports import names
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
        "decode a command of a hundred revocations": 68797,
        "encode a command": 591,
        "decode a reply": 901,
        "encode a reply": 263,
        "look up an id that is revoked": 326,
        "look up an id that is not": 45,
        "encode a task": 1389,
        "decode a task": 1657,
        "a job's frames": 1016,
    },
    "3.11": {
        "a checkpoint in a hot loop": 67,
        "a checkpoint that looks into its pipe": 127,
        "a ping, from bytes to its answer's": 3533,
        "decode a command of a hundred revocations": 72917,
        "encode a command": 655,
        "decode a reply": 979,
        "encode a reply": 292,
        "look up an id that is revoked": 381,
        "look up an id that is not": 75,
        "encode a task": 1502,
        "decode a task": 1760,
        "a job's frames": 1135,
    },
    "3.12": {
        "a checkpoint in a hot loop": 40,
        "a checkpoint that looks into its pipe": 118,
        "a ping, from bytes to its answer's": 3268,
        "decode a command of a hundred revocations": 67288,
        "encode a command": 604,
        "decode a reply": 914,
        "encode a reply": 277,
        "look up an id that is revoked": 346,
        "look up an id that is not": 71,
        "encode a task": 1412,
        "decode a task": 1679,
        "a job's frames": 1039,
    },
    "3.13": {
        "a checkpoint in a hot loop": 40,
        "a checkpoint that looks into its pipe": 60,
        "a ping, from bytes to its answer's": 1789,
        "decode a command of a hundred revocations": 66525,
        "encode a command": 216,
        "decode a reply": 534,
        "encode a reply": 80,
        "look up an id that is revoked": 118,
        "look up an id that is not": 40,
        "encode a task": 638,
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
    held, absent = records[1000].task_id, str(uuid.UUID(int=999_999))
    orders = encode_command(command(Revoke(tuple(records[:100]))))
    reply = Reply("1" * 32, "stem", "alpha", "boot", {"state": "running", "queues": ["default"], "pid": 1})
    answer = encode_reply(reply)
    delivered, sent = Delivered(message()), message()
    finished = frames.Finished(1, Outcome(Ending.SUCCEEDED), 1000)
    run = frames.encode(frames.Run(1, sent))
    yield {
        "a checkpoint in a hot loop": lambda: checkpoint(1e12),
        "a checkpoint that looks into its pipe": lambda: checkpoint(0.0),
        "a ping, from bytes to its answer's": fresh_ping,
        "decode a command of a hundred revocations": lambda: decode_command(orders, known=lambda name: False),
        "encode a command": lambda: encode_command(command(Ping())),
        "decode a reply": lambda: decode_reply(answer),
        "encode a reply": lambda: encode_reply(reply),
        "look up an id that is revoked": lambda: cache.get(held),
        "look up an id that is not": lambda: cache.get(absent),
        "encode a task": lambda: encode_task(sent),
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


def test_the_count_tells_a_third_more_and_nothing_else_changes_it() -> None:
    def loop(rounds: int) -> int:
        return sum(number * number for number in range(rounds))

    short, again, long = steps(lambda: loop(300)), steps(lambda: loop(300)), steps(lambda: loop(400))
    assert short == again
    assert 1.3 < long / short < 1.36


if __name__ == "__main__":
    print("\n".join(f"        {name!r}: {count}," for name, count in counted().items()))
