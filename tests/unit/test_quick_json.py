"""An encoder whose inner one is made once writes what the slow one writes, and refuses what that refuses in its words."""

from __future__ import annotations

import threading
import uuid
from datetime import datetime, timezone
from json import JSONEncoder
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.json import JSONEncoder as KombuEncoder

from stem_kombu import chance
from stem_kombu.messages import quick_json
from stem_kombu.messages.encoding import Envelope, encode_task
from stem_kombu.messages.quick_json import quick_encoder
from stem_kombu.task import TaskMessage
from stem_kombu.transports.publisher import OutgoingMessage
from stem_kombu.transports.redis import publisher

SLOW: list[JSONEncoder] = [
    JSONEncoder(),
    KombuEncoder(allow_nan=False, separators=(",", ":"), ensure_ascii=False),
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("slow", SLOW)
@given(value=values)
def test_it_writes_what_the_slow_one_writes(slow: JSONEncoder, value: object) -> None:
    assert quick_encoder(slow)(value) == slow.encode(value)


long_texts = st.builds(
    lambda sign, at, text: text[:at] + sign + text[at:],
    st.sampled_from(["", "\n", '"', "\\", "\x00", "\x1f", "\x7f", "é", "я", "\u2028", "😀", "\ud800"]),
    st.integers(0, 1100),
    st.sampled_from(["x" * 1100, "é" * 1100, "я" * 1100, "x" * 1000]),
)


@pytest.mark.parametrize("slow", SLOW)
@given(
    args=st.lists(long_texts | values, max_size=4),
    kwargs=st.dictionaries(st.text() | st.integers() | st.none(), long_texts | values, max_size=4),
)
def test_a_call_with_long_texts_is_written_as_the_slow_one_writes_it(
    slow: JSONEncoder, args: list[object], kwargs: dict[Any, object]
) -> None:
    value = [args, kwargs, {"chain": None}]
    assert quick_encoder(slow)(value) == slow.encode(value)


def test_a_long_text_is_not_looked_at_sign_by_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    by_json = quick_json.encoder.encode_basestring
    monkeypatch.setattr(quick_json.encoder, "encode_basestring", lambda text: (written.append(text), by_json(text))[1])
    (_, slow) = SLOW
    encode = quick_encoder(slow)
    written.clear()

    encode([["x" * 100_000], {"text": "y" * 100_000}, {}])

    assert written == ["text"]


def test_values_of_kombus_json_are_written_in_its_way() -> None:
    (_, slow) = SLOW
    value = [datetime(2026, 1, 31, tzinfo=timezone.utc), uuid.UUID(int=7), {"bytes": b"\xff"}]

    assert quick_encoder(slow)(value) == slow.encode(value)


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value", [float("nan"), object(), {object(): 1}, endless()], ids=["nan", "no JSON", "key", "itself"]
)
def test_what_it_refuses_is_refused_in_the_same_words(value: object) -> None:
    (_, slow) = SLOW
    with pytest.raises((TypeError, ValueError)) as expected:
        slow.encode([value])

    with pytest.raises(expected.type, match=r".") as told:
        quick_encoder(slow)([value])

    assert str(told.value) == str(expected.value)
    assert quick_encoder(slow)([1]) == "[1]"


def test_threads_that_write_the_same_value_disturb_each_other_in_nothing() -> None:
    (_, slow) = SLOW
    encode, shared, wrong = quick_encoder(slow), [[uuid.UUID(int=7)] * 50] * 20, []
    expected = slow.encode(shared)

    def write() -> None:
        wrong.extend(text for text in (encode(shared) for _ in range(100)) if text != expected)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_an_id_is_a_random_uuid() -> None:
    texts = [chance.uuid_text() for _ in range(1000)]

    found = [uuid.UUID(text) for text in texts]
    assert [str(one) for one in found] == texts
    assert {(one.version, one.variant) for one in found} == {(4, uuid.RFC_4122)}
    assert len(set(found)) == 1000


@pytest.mark.parametrize("task_id", ["3f1c", 'a "quoted" é id'])
def test_properties_are_written_as_the_encoder_writes_them(task_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    envelope = encode_task(TaskMessage(task_id, "mail.send", ("a",)))
    parcel = OutgoingMessage("mail", envelope)
    monkeypatch.setattr(publisher.chance, "token_hex", lambda size: "0" * 2 * size)
    quick = publisher.queue_text(parcel)

    monkeypatch.setattr(
        publisher, "_properties", lambda own, more: publisher._json({**publisher._USUAL, **own, **more})[:-1]
    )

    assert quick == publisher.queue_text(parcel)
    assert isinstance(envelope, Envelope)
