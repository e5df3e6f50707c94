from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from stem_kombu.copies import replaced
from stem_kombu.outcome import TaskRecord, TaskState


@dataclass(frozen=True, slots=True)
class Computed:
    first: int
    second: int = field(init=False, default=2)


def test_a_copy_is_the_one_that_dataclasses_make() -> None:
    record = TaskRecord("t", "mail.send", TaskState.RUNNING, attempt=2, queue="mail")

    assert replaced(record, worker="alpha", attempt=3) == replace(record, worker="alpha", attempt=3)
    assert replaced(record) == record
    assert record.worker is None


def test_a_field_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        replaced(TaskRecord("t", "mail.send", TaskState.RUNNING, attempt=1), colour="red")


def test_a_class_that_does_not_take_all_of_its_fields_is_refused() -> None:
    with pytest.raises(TypeError, match="Computed does not take all of its fields"):
        replaced(Computed(1), first=2)
