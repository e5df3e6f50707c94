"""JSON without typed values is read by another way than JSON with them: to the same end."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timezone
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kombu.utils.json import dumps, loads

from stem_kombu.messages.quick_json import load_typed
from stem_kombu.transports.payloads import end_of_body

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.datetimes()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.binary()
)
names = st.text() | st.sampled_from(["__type__", "__value__"])
documents = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=12)


def outcome(read, text):  # type: ignore[no-untyped-def]
    try:
        return repr(read(text))
    except Exception as error:  # noqa: BLE001 - that they agree is what is asked for
        return type(error)


@given(documents, st.booleans())
def test_what_was_written_is_read_as_kombu_reads_it(document: object, ascii_only: bool) -> None:
    text = dumps(document, ensure_ascii=ascii_only)
    for form in (text, text.encode("utf-8", "surrogatepass")):
        assert outcome(load_typed, form) == outcome(loads, form)


@given(st.binary() | st.text())
@example(b"\xef\xbb\xbf[]")
@example("\ufeff[]")
@example("[1, NaN, -Infinity]")
def test_what_nobody_wrote_fails_as_with_kombu(text: bytes | str) -> None:
    assert outcome(load_typed, text) == outcome(loads, text)


@pytest.mark.parametrize(
    "value", [datetime(2026, 1, 2, tzinfo=timezone.utc), uuid.UUID(int=7), Decimal("1.50"), b"\xff\x00"]
)
@pytest.mark.parametrize("letter", "_type")
def test_a_typed_value_is_found_behind_escapes_too(value: object, letter: str) -> None:
    text = dumps([{"a": value}])
    escaped = text.replace("__type__", "__type__".replace(letter, f"\\u{ord(letter):04x}"))
    assert escaped != text and json.loads(escaped) == json.loads(text)
    assert load_typed(escaped) == load_typed(escaped.encode()) == [{"a": value}]


@pytest.mark.parametrize("header", ["plain", uuid.UUID(int=7)])
@pytest.mark.parametrize("body", ["x", '"__type__"', 'ends so: ", "content-encoding": "', "\\u005f\\", "é" * 9])
def test_a_payload_with_a_large_body_is_read_as_kombu_reads_it(body: str, header: object) -> None:
    written = {"body": body * 3000, "content-encoding": "utf-8", "headers": {"h": header}, "properties": {}}
    for document in (written, dict(reversed(written.items()))):
        for text in (dumps(document), dumps(document, ensure_ascii=False).encode()):
            assert load_typed(text, plain=end_of_body(text)) == loads(text)
            assert load_typed(text, plain=end_of_body(text))["headers"] == {"h": header}
