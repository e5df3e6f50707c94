"""A failed task's message as text, and as a message again."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal

import pytest

from stem_kombu.errors import BadMessage
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.messages.encoding import HEADER_SIGNATURE_V2, encode_task
from stem_kombu.messages.keeping import KeptRaw, again, kept_message, kept_text, retried_text
from stem_kombu.messages.resending import resent
from stem_kombu.messages.signatures import task_signer, task_verifier
from stem_kombu.signing.keyring import Untrusted
from stem_kombu.task import Original, TaskMessage
from tests.signing.keys import ring, shared

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
SIGNING = shared("root", key_scopes="root:*", tasks="require")


def delivered(**more: object) -> TaskMessage:
    """A task as its worker holds it, signed by its sender."""
    message = TaskMessage(
        "t1", "shop.pay", (1,), {"card": "4711"}, queue="pay", enqueued_at=NOW, expires_at=NOW, **more
    )  # type: ignore[arg-type]
    sign = task_signer(SIGNING)
    assert sign is not None
    sent = sign("pay", encode_task(message))
    original = Original(
        sent.body, sent.content_type, sent.content_encoding, sent.headers, {**sent.properties, "priority": 4, "reply_to": "r"}
    )  # fmt: skip
    return replace(message, original=original)


def kept(message: TaskMessage) -> KeptRaw:
    text = kept_text(message, most=10_000)
    assert text is not None
    raw = kept_message(text).raw
    assert raw is not None
    return raw


def test_what_is_kept_comes_back_as_it_was_sent() -> None:
    message = delivered(headers={"tenant": "a"})
    task = decode_delivery(kept(message)).message
    assert (task.task_id, task.name, task.args, task.kwargs) == ("t1", "shop.pay", (1,), {"card": "4711"})
    assert task.headers["tenant"] == "a" and task.queue == "pay"


def test_a_retry_is_another_task_that_does_the_same() -> None:
    sent = again(
        kept(delivered()), "shop.pay", failed="t1", task_id="t2", queue="slow", now=NOW, eta=None, signed=False
    )  # fmt: skip
    assert sent.original is not None
    envelope = resent(sent, sent.original)
    raw = KeptRaw(
        envelope.body, envelope.content_type, envelope.content_encoding, envelope.headers, envelope.properties
    )
    task = decode_delivery(raw, queue="slow").message
    assert (task.task_id, task.attempt, task.kwargs, task.retried_from) == ("t2", 1, {"card": "4711"}, "t1")
    assert (task.enqueued_at, task.expires_at) == (NOW, None)
    assert envelope.headers["root_id"] == envelope.properties["correlation_id"] == "t2"
    assert envelope.properties["priority"] == 4 and "reply_to" not in envelope.properties
    assert HEADER_SIGNATURE_V2 not in envelope.headers


def test_the_signature_of_the_sender_is_verified_over_what_is_kept() -> None:
    verified = task_verifier(SIGNING, ring(SIGNING))
    assert verified is not None
    message = delivered()
    assert message.original is not None
    signed = replace(message, original=replace_properties(message.original))
    assert verified(kept(signed))
    text = kept_text(signed, most=10_000)
    assert text is not None
    forged = json.loads(text)
    forged["body"] = "W1sxMDAwXSx7fSx7fV0="
    raw = kept_message(json.dumps(forged)).raw
    with pytest.raises(Untrusted):
        verified(raw)


def replace_properties(original: Original) -> Original:
    """As it was sent: with no property that was not signed."""
    properties = {**original.properties, "reply_to": ""}
    return Original(original.body, original.content_type, original.content_encoding, original.headers, properties)


def test_what_is_too_large_or_was_never_read_is_not_kept() -> None:
    message = delivered()
    assert message.original is not None
    assert kept_text(message, most=200) is None
    assert kept_text(TaskMessage("t1", "shop.pay"), most=10_000) is None
    strange = Original(b"[]", "application/json", "utf-8", {"x": object()}, {})
    assert kept_text(replace(message, original=strange), most=10_000) is None


def test_types_that_a_broker_gives_beyond_json_come_back() -> None:
    message = delivered()
    assert message.original is not None
    headers = {**message.original.headers, "at": NOW, "price": Decimal("1.10")}
    odd = Original(message.original.body, "application/json", "utf-8", headers, {"timestamp": NOW})
    raw = kept(replace(message, original=odd))
    assert (raw.headers["at"], raw.headers["price"], raw.properties["timestamp"]) == (NOW, Decimal("1.10"), NOW)


def test_the_note_of_a_retry_has_no_arguments() -> None:
    note = retried_text("shop.pay", "pay", "t2")
    found = kept_message(note)
    assert (found.raw, found.retried_as, found.name) == (None, "t2", "shop.pay")
    assert "4711" not in note


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"v":2}', '{"v":1,"name":"a","queue":"q","body":"*"}', '{"v":1,"name":3}']
)
def test_what_is_no_message_is_refused(text: str) -> None:
    with pytest.raises(BadMessage):
        kept_message(text)
