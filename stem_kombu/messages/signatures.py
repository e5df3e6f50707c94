"""Tasks that prove who sent them: a header beside Celery's, which Celery's own workers pass over.

Signed is what does not change in delivery: the queue, what the body is and how to read it, and every header that decides how
the task runs. The queue is the one that a worker consumes: a message that was moved to another one is refused there. A next
attempt is another message, signed by the worker that sends it, if the attempt before was signed. What brokers add on the way
(redeliveries, deaths), the priority, and what only people look at is not signed. See docs/adr/0017-task-signatures.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from stem_kombu.messages.encoding import (
    HEADER_ENQUEUED_AT,
    HEADER_ETA,
    HEADER_HEADERS,
    HEADER_MAX_RETRIES,
    HEADER_SIGNATURE_V1,
    HEADER_SIGNATURE_V2,
    Envelope,
)
from stem_kombu.messages.resending import body_of, consumed_queue, original_of
from stem_kombu.settings import SigningSettings
from stem_kombu.signing.configuration import ACCEPT, OFF, REQUIRE, open_keyring, task_signing, task_signing_v1
from stem_kombu.signing.keyring import Keyring, Scope, Untrusted
from stem_kombu.task import Original

TASK_V1, TASK = b"stem-task/1", b"stem-task/2"

_HEADERS_V1 = (
    "task",
    "id",
    "eta",
    "expires",
    "retries",
    "timelimit",
    "group",
    "group_index",
    "root_id",
    "parent_id",
    "ignore_result",
    HEADER_ENQUEUED_AT,
    HEADER_MAX_RETRIES,
    HEADER_HEADERS,
)
_HEADERS = (*_HEADERS_V1, HEADER_ETA, "compression")
_PROPERTIES = ("correlation_id", "reply_to")


def task_signer(settings: SigningSettings) -> Callable[[str, Envelope], Envelope] | None:
    """What signs a message for a queue, ``None`` where tasks are not signed.

    Raises :class:`~stem_kombu.errors.ConfigurationError` for incomplete settings, and :class:`Untrusted` where the active
    key may not send.
    """
    keyring = open_keyring(settings)
    if keyring is None or task_signing(settings) == OFF:
        return None
    keyring.active.require(Scope.SEND, "send tasks")
    for_0_1_0 = task_signing_v1(settings) != OFF

    def sign(queue: str, envelope: Envelope) -> Envelope:
        headers = {**envelope.headers, HEADER_SIGNATURE_V2: keyring.sign(TASK, _message(queue, envelope))}
        if for_0_1_0:
            headers[HEADER_SIGNATURE_V1] = keyring.sign(TASK_V1, _message_v1(queue, envelope.headers, envelope.body))
        return replace(envelope, headers=headers)

    return sign


def task_verifier(settings: SigningSettings, keyring: Keyring | None) -> Callable[[object], bool] | None:
    """A function that tells whether a Kombu message is signed, ``None`` where signatures are not checked.

    The verifier raises :class:`Untrusted` for a wrong signature, and for none at all where one is required. A signature of
    0.1.0, which covers less, counts as none unless the settings accept it.
    """
    way, accepts_v1 = task_signing(settings), task_signing_v1(settings) == ACCEPT
    if keyring is None or way == OFF:
        return None

    def verified(raw: object) -> bool:
        original = original_of(raw)
        headers, queue = original.headers, consumed_queue(raw)
        signature, old = headers.get(HEADER_SIGNATURE_V2), headers.get(HEADER_SIGNATURE_V1)
        if signature is not None:
            _check(keyring, TASK, partial(_message, queue, original), signature)
            return True
        if old is not None:
            # By the body as a worker of 0.1.0 read it: unpacked.
            _check(keyring, TASK_V1, lambda: _message_v1(queue, headers, bytes(body_of(raw))), old)
            if accepts_v1:
                return True
        if way == REQUIRE:
            task = str(headers.get("task"))[:80]
            if old is None:
                raise Untrusted("unsigned", f"task {task!r} is not signed")
            raise Untrusted(
                "outdated-signature",
                f"task {task!r} is signed as 0.1.0 signs, which covers neither the queue that is consumed nor the content"
                " type: upgrade its sender, or set STEM_SIGNING_TASKS_V1=accept until it is",
            )
        return False

    return verified


def _check(keyring: Keyring, domain: bytes, message: Callable[[], bytes], signature: object) -> None:
    try:
        signed = message()
    except (TypeError, ValueError, RecursionError):
        raise Untrusted("bad-signature", "the headers of a signed task can't be read") from None
    keyring.verify(domain, signed, str(signature)).require(Scope.SEND, "send tasks")


def _message(queue: str, sent: Envelope | Original) -> bytes:
    """What is signed of a message: a list of fixed length. What is missing is signed as null, and an empty property as well."""
    headers = [sent.headers.get(name) for name in _HEADERS]
    properties = [sent.properties.get(name) or None for name in _PROPERTIES]
    stated = [queue, sent.content_type, sent.content_encoding, *headers, *properties]
    return json.dumps([*stated, hashlib.sha256(sent.body).hexdigest()], separators=(",", ":")).encode()


def _message_v1(queue: str, headers: Mapping[str, object], body: bytes) -> bytes:
    stated = [headers.get(name) for name in _HEADERS_V1]
    return json.dumps([queue, *stated, hashlib.sha256(body).hexdigest()], separators=(",", ":")).encode()
