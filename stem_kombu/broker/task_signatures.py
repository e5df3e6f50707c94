"""Tasks that prove who sent them: a header beside Celery's, which Celery's own workers pass over.

Signed is what does not change in delivery: the queue, the body's bytes, and every header that decides how the task runs.
A next attempt is another message, signed by the worker that sends it. What brokers add on the way (redeliveries, deaths) and
what only people look at is not signed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from stem_kombu.broker.encoding import HEADER_ENQUEUED_AT, HEADER_HEADERS, HEADER_MAX_RETRIES, Envelope
from stem_kombu.broker.encoding import HEADER_SIGNATURE as HEADER_SIGNATURE
from stem_kombu.settings import SigningSettings
from stem_kombu.signing.configuration import OFF, REQUIRE, open_keyring, task_signing
from stem_kombu.signing.keyring import Keyring, Scope, Untrusted

TASK = b"stem-task/1"

_SIGNED = (
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


def task_signer(settings: SigningSettings) -> Callable[[str, Envelope], Envelope] | None:
    """What signs a message for a queue, ``None`` where tasks are not signed.

    Raises :class:`~stem_kombu.errors.ConfigurationError` for incomplete settings, and :class:`Untrusted` where the active
    key may not send.
    """
    keyring = open_keyring(settings)
    if keyring is None or task_signing(settings) == OFF:
        return None
    keyring.active.require(Scope.SEND, "send tasks")

    def sign(queue: str, envelope: Envelope) -> Envelope:
        signature = keyring.sign(TASK, _message(queue, envelope.headers, envelope.body))
        return replace(envelope, headers={**envelope.headers, HEADER_SIGNATURE: signature})

    return sign


def task_verifier(settings: SigningSettings, keyring: Keyring | None) -> Callable[[Any], bool] | None:
    """What says of a Kombu message whether it is signed, ``None`` where nobody has to.

    The verifier raises :class:`Untrusted` for a wrong signature, and for none at all where one is required.
    """
    way = task_signing(settings)
    if keyring is None or way == OFF:
        return None

    def verified(raw: Any) -> bool:
        headers = raw.headers if isinstance(raw.headers, Mapping) else {}
        signature = headers.get(HEADER_SIGNATURE)
        if signature is None:
            if way == REQUIRE:
                raise Untrusted("unsigned", f"task {str(headers.get('task'))[:80]!r} is not signed")
            return False
        info = raw.delivery_info if isinstance(raw.delivery_info, Mapping) else {}
        body = raw.body
        if isinstance(body, str):
            body = body.encode("utf-8", "surrogatepass")
        try:
            message = _message(str(info.get("routing_key") or ""), headers, bytes(body))
        except (TypeError, ValueError, RecursionError):
            raise Untrusted("bad-signature", "the headers of a signed task can't be read") from None
        keyring.verify(TASK, message, str(signature)).require(Scope.SEND, "send tasks")
        return True

    return verified


def _message(queue: str, headers: Mapping[str, Any], body: bytes) -> bytes:
    stated = [headers.get(name) for name in _SIGNED]
    return json.dumps([queue, *stated, hashlib.sha256(body).hexdigest()], separators=(",", ":")).encode()
