"""Every frame comes out of the pipe as it went in, whatever its fields hold."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest

from stem_kombu.execution import frames
from stem_kombu.execution.base import Stop
from stem_kombu.outcome import Ending, Outcome, TaskError
from stem_kombu.revocation import Revocation
from stem_kombu.task import CeleryOrigin, TaskMessage

NOW = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=timezone.utc)
REVOCATION = Revocation("stem", "t-1", 7, NOW, terminate=True, reason="INC-42", requested_by="me@host")
BARE = TaskMessage("t-1", "tasks.add")
FULL = TaskMessage(
    "t-1", "tasks.add", (1, Decimal("1.5"), uuid.UUID(int=3), NOW), {"b": [None, {"c": b"\x00"}]}, "urgent", 3,
    NOW + timedelta(days=1), NOW + timedelta(microseconds=1), NOW, 5, 1.5, 2.5, {"tenant": "ä"},
    CeleryOrigin(root_id="r", group_index=2, canvas=("chord",), dependents=("d",)),
)  # fmt: skip
FRAMES = [
    frames.Run(1, BARE), frames.Run(2**40, FULL),
    frames.StopJob(1, Stop.REVOKED, REVOCATION), frames.StopJob(1, Stop.SHUTDOWN), frames.Retire(),
    frames.SetLogLevels({"": "debug", "mail": "info"}),
    frames.Ready(4711), frames.LoadFailed("no module"), frames.Started(1),
    frames.Report(1), frames.Report(1, 0.5, {"tile": 3}), frames.ExtendLease(1, 60.0),
    *(frames.Finished(1, Outcome(kind), 50_000_000) for kind in Ending),
    frames.Finished(1, Outcome(Ending.SUCCEEDED, {"a": [1, None, "x"]}), None),
    frames.Finished(1, Outcome(Ending.RETRY, None, TaskError("ValueError", "no", "Traceback"), REVOCATION, 3.5), 1),
]  # fmt: skip


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_frames_come_out_as_they_went_in_however_they_are_cut(step: int) -> None:
    stream = b"".join(frames.encode(frame) for frame in FRAMES)
    reader = frames.FrameReader()
    came = [frame for at in range(0, len(stream), step) for frame in reader.feed(stream[at : at + step])]
    assert came == FRAMES
    assert [type(one.outcome.kind) for one in came if isinstance(one, frames.Finished)] == [Ending] * (len(Ending) + 2)
