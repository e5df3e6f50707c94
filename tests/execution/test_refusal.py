"""Arguments that don't fit a handler, told from those that do by their number and names."""

from __future__ import annotations

import pytest

from stem_kombu.execution.handlers import refusal
from stem_kombu.outcome import Ending
from stem_kombu.task import Task, TaskMessage


def handler(ctx: object, first: int, *, second: int = 0) -> None: ...


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ((1,), {}, None),
        ((), {"first": 1}, None),
        ((1,), {"second": 2}, None),
        ((), {}, "missing a required argument: 'first'"),
        ((1, 2), {}, "too many positional arguments"),
        ((1,), {"third": 3}, "unexpected keyword argument 'third'"),
        ((1,), {"first": 1}, "multiple values for argument 'first'"),
        ((1,), {"ctx": 1}, "multiple values for argument 'ctx'"),
    ],
)
def test_a_call_that_can_not_work_is_refused_each_time(
    args: tuple[int, ...], kwargs: dict[str, int], reason: str | None
) -> None:
    task, message = Task("tasks.a", handler), TaskMessage("t", "tasks.a", args, kwargs)
    for _ in range(2):
        outcome = refusal(task, message)
        if reason is None:
            assert outcome is None
        else:
            assert outcome is not None
            assert outcome.kind is Ending.REJECTED
            assert outcome.error is not None
            assert reason in outcome.error.message
