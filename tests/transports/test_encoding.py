"""Tasks as messages of Celery's protocol 2, and back."""

from __future__ import annotations

import json
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.message import Message

from stem_kombu.clock import from_epoch
from stem_kombu.errors import ConfigurationError
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.messages.encoding import DEEPEST_NESTING, LARGEST_BODY, encode_task
from stem_kombu.task import CeleryOrigin, TaskMessage

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=timezone.utc)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
moments = st.floats(86400.0, 7e9).map(from_epoch)


def message(*args: Any, **kwargs: Any) -> TaskMessage:
    return TaskMessage("t1", "tasks.render", args, kwargs)


def travelled(sent: TaskMessage) -> TaskMessage:
    envelope = encode_task(sent)
    # Through JSON, as every transport does with headers and properties in one way or another.
    raw = Message(
        body=envelope.body,
        content_type="application/json",
        headers=json.loads(json.dumps(envelope.headers)),
        properties=json.loads(json.dumps(envelope.properties)),
        delivery_info={"exchange": "", "routing_key": sent.queue},
    )
    return decode_delivery(raw).message


@given(
    st.builds(
        TaskMessage,
        task_id=st.from_regex(r"[a-zA-Z0-9-]{1,40}", fullmatch=True),
        name=st.from_regex(r"[a-z_.-]{1,40}", fullmatch=True),
        args=st.lists(values, max_size=4).map(tuple),
        kwargs=st.dictionaries(st.text(max_size=10), values, max_size=4),
        queue=st.sampled_from(["default", "shop.default"]),
        attempt=st.integers(1, 1000),
        eta=st.none() | moments,
        expires_at=st.none() | moments,
        enqueued_at=st.none() | moments,
        max_retries=st.none() | st.integers(0, 100),
        soft_time_limit=st.none() | st.floats(0.1, 1e6),
        time_limit=st.none() | st.floats(0.1, 1e6),
        headers=st.dictionaries(st.text(max_size=10), values, max_size=3),
    )
)
def test_what_arrives_is_what_was_sent(sent: TaskMessage) -> None:
    # "__type__" objects are Celery's typed JSON and are decoded to what they say.
    if "__type__" not in json.dumps([sent.args, dict(sent.kwargs), dict(sent.headers)]):
        assert travelled(sent) == sent


def test_dates_decimals_uuids_and_bytes_travel_as_celery_sends_them() -> None:
    args = (NOW, date(2026, 3, 1), Decimal("1.10"), uuid.UUID(int=7), b"abc", b"\xff\x00")
    assert travelled(message(*args)).args == args


def test_the_headers_are_those_of_celerys_protocol_2() -> None:
    sent = TaskMessage(
        "t1",
        "tasks.render",
        (1,),
        {"k": 2},
        attempt=3,
        eta=NOW,
        expires_at=NOW + timedelta(hours=1),
        time_limit=9.0,
        soft_time_limit=5.0,
    )
    envelope = encode_task(sent)
    assert json.loads(envelope.body) == [
        [1],
        {"k": 2},
        {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
    ]
    assert envelope.properties["correlation_id"] == "t1"
    headers = envelope.headers
    assert (headers["lang"], headers["task"], headers["id"], headers["root_id"]) == ("py", "tasks.render", "t1", "t1")
    assert (headers["retries"], headers["timelimit"]) == (2, [9.0, 5.0])
    assert (headers["eta"], headers["expires"]) == ("2026-03-01T12:00:00.123456Z", "2026-03-01T13:00:00.123456Z")
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("(1,)", "{'k': 2}")


def test_what_the_protocol_requires_is_always_there_and_what_says_nothing_never() -> None:
    plain = encode_task(message(1)).headers
    assert plain.keys() == {
        *("lang", "task", "id", "root_id", "parent_id", "group"),  # required
        *("retries", "argsrepr", "kwargsrepr", "origin"),  # what people look at
        "stem-enqueued-at",
    }
    full = encode_task(
        TaskMessage(
            "t1",
            "tasks.render",
            eta=NOW,
            expires_at=NOW,
            time_limit=2.0,
            celery=CeleryOrigin(group="g", group_index=0, ignore_result=True),
        )
    ).headers
    assert (full["eta"], full["expires"]) == ("2026-03-01T12:00:00.123456Z",) * 2
    assert (full["timelimit"], full["group_index"], full["ignore_result"]) == ([2.0, None], 0, True)


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), float("inf"), {(1, 2): 3}, "\ud800", lambda: None])
def test_an_argument_that_json_cannot_hold_is_refused_with_its_name_and_its_task(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"argument 'tile' of task 'tasks.render'"):
        encode_task(message(1, tile=value))
    with pytest.raises(ConfigurationError, match=r"argument 2 of task 'tasks.render'"):
        encode_task(message(1, value))


def test_arguments_that_refer_to_themselves_or_are_nested_too_deep_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(DEEPEST_NESTING + 1):
        deep = [deep]
    for value in (loop, deep):
        with pytest.raises(ConfigurationError, match=r"argument 1 of task 'tasks.render'"):
            encode_task(message(value))


@pytest.mark.parametrize("beside", [0, 8192])
@pytest.mark.parametrize("kinds", ["[", "{", "[{"])
def test_arguments_one_level_too_deep_are_refused_beside_any_amount_of_text(kinds: str, beside: int) -> None:
    # [args, kwargs] are two levels themselves
    value: object = "x" * beside
    for level in range(DEEPEST_NESTING - 2):
        value = [value] if kinds[level % len(kinds)] == "[" else {"k": value}
    assert travelled(message(value)).args == (value,)
    with pytest.raises(ConfigurationError, match="nested deeper"):
        encode_task(message([value]))


def test_wide_arguments_are_not_mistaken_for_deep_ones() -> None:
    tiles = [{"x": [n]} for n in range(1000)]
    assert travelled(message(tiles)).args == (tiles,)


def test_arguments_larger_than_a_message_may_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"take \d+ bytes"):
        encode_task(message("x" * LARGEST_BODY))


def test_headers_of_the_user_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"headers of task 'tasks.render'"):
        encode_task(TaskMessage("t1", "tasks.render", headers={"k": object()}))


def test_an_argument_whose_repr_raises_is_sent_all_the_same() -> None:
    class Shy(int):
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert encode_task(message(x={"n": Shy(3)})).headers["kwargsrepr"].startswith(("{", "<"))
