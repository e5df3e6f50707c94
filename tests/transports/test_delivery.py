"""The door: what is accepted, and what is refused with which reason (G17)."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Producer
from kombu.message import Message

from stem_kombu.errors import BadMessage
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.messages.encoding import DEEPEST_NESTING, LARGEST_BODY, encode_task
from stem_kombu.task import CeleryOrigin, TaskMessage
from stem_kombu.transports import names
from tests.transports.receiving import Inbox, connected

GOOD = {"task": "tasks.render", "id": "t1"}


def raw(body: Any = b"[[1], {}, {}]", headers: dict[str, Any] | None = None, **more: Any) -> Message:
    more.setdefault("content_type", "application/json")
    more.setdefault("delivery_info", {"routing_key": "default"})
    return Message(body=body, headers=GOOD if headers is None else headers, delivery_tag="tag", **more)


def test_the_least_that_is_a_task_is_accepted() -> None:
    arrival = decode_delivery(raw(b"[[1], {}]"))
    assert (arrival.message.task_id, arrival.message.args, arrival.message.attempt) == ("t1", (1,), 1)
    assert (arrival.message.queue, arrival.redelivered, arrival.delivery_tag, arrival.priority) == (
        "default",
        False,
        "tag",
        0,
    )


def test_the_queue_it_was_consumed_from_wins_over_the_routing_key() -> None:
    assert decode_delivery(raw(), queue="renders").message.queue == "renders"


def test_a_redelivery_is_recognised_on_either_mark() -> None:
    assert decode_delivery(raw(delivery_info={"redelivered": True})).redelivered
    assert decode_delivery(raw(headers={**GOOD, "redelivered": True})).redelivered


def test_headers_that_the_protocol_does_not_know_reach_the_handler() -> None:
    headers = {**GOOD, "tenant": "acme", "stem-headers": '{"trace": "1"}', "stem-unknown": 1, "lang": "py"}
    assert decode_delivery(raw(headers=headers)).message.headers == {"tenant": "acme", "trace": "1"}


@pytest.mark.parametrize("text", ["2026-03-01T12:00:00Z", "2026-03-01T13:00:00+01:00", "2026-03-01T12:00:00"])
def test_times_are_read_with_any_offset_and_as_utc_without_one(text: str) -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    assert decode_delivery(raw(headers={**GOOD, "eta": text})).message.eta == moment


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (b"", GOOD, "not JSON"),
        (b"[[1], {}", GOOD, "not JSON"),
        (b"\xff\xfe", GOOD, "not JSON"),
        (b'[[{"__type__": "uuid", "__value__": 3}], {}]', GOOD, "not JSON"),
        (b'[[{"__type__": "pickle", "__value__": ""}], {}]', GOOD, "not JSON"),
        (None, GOOD, "not text"),
        (b"{}", GOOD, "not \\[args, kwargs, embed\\]"),
        (b"[1, {}, {}]", GOOD, "args must be a list"),
        (b"[[], [], {}]", GOOD, "args must be a list and kwargs an object"),
        (b"[[], {}, 7]", GOOD, "embed must be an object"),
        (b"[" * 100_000, GOOD, "nested deeper"),
        (b"[" * 200 + b"]" * 200, GOOD, "nested deeper"),
        (b"[[], {}]", {"id": "t1"}, "no header 'task'"),
        (b'{"task": "a.b", "id": "t1", "args": []}', {}, "message protocol 1"),
        (b"[[], {}]", {"task": "", "id": "t1"}, "header 'task'"),
        (b"[[], {}]", {"task": ["x"], "id": "t1"}, "header 'task'"),
        (b"[[], {}]", {"task": "x" * 600, "id": "t1"}, "header 'task'"),
        (b"[[], {}]", {"task": "a.b"}, "header 'id'"),
        (b"[[], {}]", {"task": "a.b", "id": ""}, "header 'id'"),
        (b"[[], {}]", {"task": "a.b", "id": "x" * 10_000}, "header 'id'"),
        (b"[[], {}]", {"task": "a.b", "id": 7}, "header 'id'"),
        (b"[[], {}]", {**GOOD, "retries": -1}, "header 'retries'"),
        (b"[[], {}]", {**GOOD, "retries": True}, "header 'retries'"),
        (b"[[], {}]", {**GOOD, "retries": "2"}, "header 'retries'"),
        (b"[[], {}]", {**GOOD, "eta": "tomorrow"}, "header 'eta'"),
        (b"[[], {}]", {**GOOD, "eta": 5}, "header 'eta'"),
        (b"[[], {}]", {**GOOD, "expires": "0001-01-01T00:00:00+14:00"}, "header 'expires'"),
        (b"[[], {}]", {**GOOD, "timelimit": 5}, "header 'timelimit'"),
        (b"[[], {}]", {**GOOD, "timelimit": ["a", None]}, "header 'timelimit'"),
        (b"[[], {}]", {**GOOD, "stem-max-retries": -1}, "header 'stem-max-retries'"),
        (b"[[], {}]", {**GOOD, "stem-headers": "{"}, "header 'stem-headers'"),
        (b"[[], {}]", {**GOOD, "stem-headers": "[]"}, "header 'stem-headers'"),
        (b"x" * (LARGEST_BODY + 1), GOOD, "bytes"),
    ],
)
def test_g17_what_cannot_be_read_is_refused_with_the_reason(body: Any, headers: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadMessage, match=reason):
        decode_delivery(raw(body, headers))


@pytest.mark.parametrize("part", ["callbacks", "errbacks", "chain", "chord"])
def test_g17_a_part_of_a_canvas_is_recognised_with_the_tasks_that_wait_for_it(part: str) -> None:
    body = json.dumps([[], {}, {part: [{"task": "next", "options": {"task_id": "t2"}}]}]).encode()
    origin = decode_delivery(raw(body)).message.celery
    assert origin is not None
    assert origin.canvas == (part,)
    assert origin.dependents == (() if part == "errbacks" else ("t2",))


def test_the_members_of_canvases_inside_canvases_are_found() -> None:
    def one(task_id: str, **more: Any) -> dict[str, Any]:
        return {"task": "next", "options": {"task_id": task_id}, **more}

    inner = {"task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": [one("b"), one("c")]}, "options": {}}
    last = {
        "task": "celery.chain",
        "subtask_type": "chain",
        "kwargs": {"tasks": [one("d")]},
        "options": {"task_id": "e"},
    }
    origin = decode_delivery(
        raw(json.dumps([[], {}, {"chain": [one("a"), inner], "chord": last}]).encode())
    ).message.celery
    assert origin is not None
    assert (origin.canvas, sorted(origin.dependents)) == (("chain", "chord"), ["a", "b", "c", "d", "e"])


@pytest.mark.parametrize("odd", [7, "x", [3], {"options": 4}, [{"options": {"task_id": 9}}], [[[[[]]]]]])
def test_an_odd_canvas_is_still_a_canvas(odd: Any) -> None:
    origin = decode_delivery(raw(json.dumps([[], {}, {"chain": odd}]).encode())).message.celery
    assert origin is not None
    assert (origin.canvas, origin.dependents) == (("chain",), ())


def test_what_a_celery_application_sent_keeps_its_place_when_it_is_tried_again() -> None:
    headers = {**GOOD, "group": "g1", "group_index": 3, "root_id": "r", "parent_id": "p", "ignore_result": True}
    first = decode_delivery(raw(headers=headers)).message
    envelope = encode_task(replace(first, attempt=2))
    again = decode_delivery(raw(envelope.body, envelope.headers)).message
    assert first.celery == again.celery == CeleryOrigin(True, "r", "p", "g1", 3)


def test_what_stem_sent_has_no_sender_to_tell() -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    envelope = encode_task(TaskMessage("t1", "tasks.render", enqueued_at=moment))
    assert decode_delivery(raw(envelope.body, envelope.headers)).message.celery is None


@given(
    st.binary(max_size=200),
    st.dictionaries(
        st.sampled_from(sorted({*GOOD, "retries", "eta", "timelimit", "stem-headers"})),
        st.none() | st.integers() | st.text() | st.lists(st.integers()),
    ),
)
def test_g17_garbage_never_raises_anything_but_bad_message(body: bytes, headers: dict[str, Any]) -> None:
    with contextlib.suppress(BadMessage):
        decode_delivery(raw(body, headers))


def test_the_deepest_arguments_that_are_sent_are_accepted() -> None:
    levels = DEEPEST_NESTING - 2
    assert decode_delivery(raw(b"[[" + b"[" * levels + b"]" * levels + b"], {}]")).message.args


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_g17_nothing_unpickles_what_a_broker_delivers(broker_url: str, queue_name: str, tmp_path: Path) -> None:
    # given a pickle in the queue, labelled honestly, and one that claims to be JSON
    sprung = tmp_path / "sprung"
    payload = pickle.dumps([[Trap(sprung)], {}, {}])
    connection = connected(broker_url)
    inbox = Inbox(connection, names.task_queue(queue_name))
    producer = Producer(connection.default_channel, auto_declare=False)
    for content_type in ("application/x-python-serialize", "application/json"):
        producer.publish(
            payload,
            routing_key=queue_name,
            exchange="",
            headers=GOOD,
            content_type=content_type,
            content_encoding="binary",
        )
    # when both are decoded
    for message in inbox.until(2):
        with pytest.raises(BadMessage):
            decode_delivery(message)
        message.ack()
    # then neither was run
    assert not sprung.exists()
    connection.release()
