"""Every frame comes out of the pipe as it went in, whatever its fields hold."""

from __future__ import annotations

import copy
import uuid
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from stem_kombu.execution import frames
from stem_kombu.execution.base import Stop
from stem_kombu.outcome import Ending, Outcome, TaskError
from stem_kombu.revocation import Revocation
from stem_kombu.task import CeleryOrigin, Original, TaskMessage

NOW = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=timezone.utc)
REVOCATION = Revocation("stem", "t-1", 7, NOW, terminate=True, reason="INC-42", requested_by="me@host")
BARE = TaskMessage("t-1", "tasks.add")
#: All that a handler is called with.
CALL = TaskMessage(
    "t-1", "tasks.add", (1, Decimal("1.5"), uuid.UUID(int=3), NOW), {"b": [None, {"c": b"\x00"}]}, "urgent", 3,
    headers={"tenant": "ä"},
)  # fmt: skip
#: The same with all that is the worker's.
FULL = replace(
    CALL, eta=NOW + timedelta(days=1), expires_at=NOW + timedelta(microseconds=1), enqueued_at=NOW, max_retries=5,
    soft_time_limit=1.5, time_limit=2.5, celery=CeleryOrigin(root_id="r", canvas=("chord",), dependents=("d",)),
    retried_from="t-0", original=Original(b"[]", "application/json", "utf-8", {}, {}),
)  # fmt: skip
FRAMES = [
    frames.Run(1, BARE), frames.Run(2**40, CALL),
    frames.StopJob(1, Stop.REVOKED, REVOCATION), frames.StopJob(1, Stop.SHUTDOWN), frames.Retire(),
    frames.SetLogLevels({"": "debug", "mail": "info"}),
    frames.Ready(4711), frames.LoadFailed("no module"), frames.Started(1),
    frames.Report(1), frames.Report(1, 0.5, {"tile": 3}), frames.ExtendLease(1, 60.0),
    *(frames.Finished(1, Outcome(kind), 50_000_000) for kind in Ending),
    frames.Finished(1, Outcome(Ending.SUCCEEDED, {"a": [1, None, "x"]}), None),
    frames.Finished(2**40, Outcome(Ending.SUCCEEDED), None), frames.Finished(1, Outcome(Ending.RELEASED), None),
    frames.Finished(1, Outcome(Ending.RETRY, None, TaskError("ValueError", "no", "Traceback"), REVOCATION, 3.5), 1),
]  # fmt: skip


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_frames_come_out_as_they_went_in_however_they_are_cut(step: int) -> None:
    stream = b"".join(frames.encode(frame) for frame in FRAMES)
    reader = frames.FrameReader()
    came = [frame for at in range(0, len(stream), step) for frame in reader.feed(stream[at : at + step])]
    assert came == FRAMES
    assert [type(one.outcome.kind) for one in came if isinstance(one, frames.Finished)] == [Ending] * (len(Ending) + 4)


def test_of_a_message_only_that_goes_to_the_child_with_which_its_handler_is_called() -> None:
    assert frames.decode_alone(frames.encode_alone(frames.Run(1, FULL, 2.5))) == frames.Run(1, CALL, 2.5)


def test_a_short_task_without_a_result_is_reported_in_few_bytes() -> None:
    reports = (frames.Started(7), frames.Finished(7, Outcome(Ending.SUCCEEDED), None))
    assert [len(frames.encode(report)) for report in reports] == [17, 17]


def test_many_frames_that_come_at_once_are_taken_out_of_the_buffer_once() -> None:
    reader = frames.FrameReader()
    taken: list[int] = []

    class Buffer(bytearray):
        def __delitem__(self, key: Any) -> None:
            taken.append(key.stop)
            super().__delitem__(key)

    reader._buffer = Buffer()
    stream = frames.encode(frames.Started(1)) * 40
    assert len(list(reader.feed(stream + b"\x00"))) == 40
    assert taken == [len(stream)]


@pytest.mark.parametrize(
    "frame",
    [
        frames.StopJob(1, Stop.REVOKED, REVOCATION),
        frames.Finished(1, Outcome(Ending.FAILED, None, TaskError("E", "no")), 1),
    ],
)
def test_a_frame_with_an_object_that_lacks_its_attributes_is_a_fault(frame: Any) -> None:
    inner = frame.revocation if isinstance(frame, frames.StopJob) else frame.outcome.error
    object.__delattr__(inner := copy.copy(inner), "task_id" if isinstance(inner, Revocation) else "message")
    if isinstance(frame, frames.StopJob):
        frame = replace(frame, revocation=inner)
    else:
        frame = replace(frame, outcome=replace(frame.outcome, error=inner))
    with pytest.raises(AttributeError):
        frames._check(frame)
