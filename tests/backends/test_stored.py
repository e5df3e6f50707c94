"""The stored form, how batches are cut, and the pace of pruning."""

from __future__ import annotations

import json

import pytest

from stem_kombu.backends.pruning import PruneSchedule
from stem_kombu.backends.stored import parsed_record, record_text, slices
from stem_kombu.errors import StoreCorrupt
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.testing.backend_contract import full_record
from tests.backends.test_memory_backend import Hands


def test_the_stored_form_is_one_json_document_whose_head_ends_at_its_sixth_line_break() -> None:
    record = full_record()

    text = record_text(record)

    assert json.loads(text)[:4] == ["failed", 3, record.queue, record.worker]
    assert text.isascii()
    assert text.count("\n") == 5
    assert parsed_record(record.task_id, text, place="here") == record


@pytest.mark.parametrize(
    "text",
    [
        *("", "nonsense", "{}", "[]", "null", '["succeeded",1,null,null,null,null]', "[" * 100_000),
        '["done",1,null,null,null,null,{"name":"n"}]',
        '["failed","1",null,null,null,null,{"name":"n"}]',
        '["failed",-1,null,null,null,null,{"name":"n"}]',
        '["failed",1,7,null,null,null,{"name":"n"}]',
        '["failed",1,null,null,"noon",null,{"name":"n"}]',
        '["failed",1,null,null,1e300,null,{"name":"n"}]',
        '["failed",1,null,null,null,null,{}]',
        '["failed",1,null,null,null,null,[]]',
        '["failed",1,null,null,null,null,{"name":"n","error":{}}]',
        '["failed",1,null,null,null,null,{"name":"n","revocation":7}]',
        b"\xff\xfe",
    ],
    ids=lambda text: repr(text)[:40],
)
def test_what_is_no_record_is_corrupt_and_the_place_is_named(text: str) -> None:
    with pytest.raises(StoreCorrupt, match="key 'k' holds") as raised:
        parsed_record("t", text, place="key 'k'")

    assert raised.value.hint


def test_batches_are_cut_by_number_and_by_bytes_and_nothing_is_left_out() -> None:
    many, large = ["x"] * 1300, ["y" * 3_000_000] * 3
    texts = [*many, *large, "z"]

    parts = [texts[part] for part in slices(texts)]

    assert [text for part in parts for text in part] == texts
    assert [len(part) for part in parts] == [512, 512, 277, 1, 2]
    assert list(slices([])) == []


def test_pruning_comes_at_once_then_every_minute_or_every_few_hundred_records() -> None:
    clock = Hands()
    pace = PruneSchedule(clock)

    assert pace.due(1) == 256
    assert pace.due(1) == 0
    clock.sleep(60)
    assert pace.due(1) == 256
    assert [pace.due(1) for _ in range(255)] == [0] * 255
    assert pace.due(745) == 2000


def test_an_unfinished_task_has_a_record_of_its_own() -> None:
    queued = TaskRecord("t", "n", TaskState.QUEUED)

    assert parsed_record("t", record_text(queued), place="") == queued
