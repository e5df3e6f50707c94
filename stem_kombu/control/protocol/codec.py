"""The door of the control plane: bytes to messages and back, with every field checked once (G17).

JSON only, of a bounded size, in a known version. What can't be read raises :class:`~stem_kombu.errors.BadMessage`; where
the sender could still be told, the exception carries the address (:class:`Unreadable`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from stem_kombu.clock import isoformat, parse_isoformat
from stem_kombu.control.protocol.messages import Call, Command, Inspect, Order, Ping, Reply, ReplyError, Revoke, Stats
from stem_kombu.errors import BadMessage
from stem_kombu.revocation import Revocation
from stem_kombu.signing.keyring import LONGEST_SIGNATURE, Keyring
from stem_kombu.signing.seal import COMMAND, REPLY, sealed
from stem_kombu.transports.names import is_reply_name

T = TypeVar("T")

VERSION = 1
#: Bytes of a command and of a reply. A reply may list a thousand revocations with long reasons.
LARGEST_COMMAND = 1024 * 1024
LARGEST_REPLY = 32 * 1024 * 1024
#: Characters of names and addresses.
_LONGEST_TEXT = 512
_MOST_TARGETS = 10_000
#: Characters of what is said about an error.
_LONGEST_EXPLANATION = 10_000


class Unreadable(BadMessage):
    """A command that can't be read, but whose sender can be told: ``reply_to``, ``request_id`` and ``part`` are known.

    ``targets`` are whom it was meant for, as far as that can be read; nobody else should speak up.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        reply_to: str,
        request_id: str,
        part: int = 0,
        targets: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.reply_to = reply_to
        self.request_id = request_id
        self.part = part
        self.targets = targets


class Address(NamedTuple):
    """Where a command came from and whom it is for: what can be said of one that is not believed."""

    namespace: str
    request_id: str
    reply_to: str
    part: int
    targets: tuple[str, ...] | None


def encode_command(command: Command, keyring: Keyring | None = None) -> bytes:
    """The command as JSON, sealed where there are keys; raises :class:`BadMessage` when it is too large for one message."""
    return _encode(
        {
            "v": VERSION,
            "id": command.request_id,
            "ns": command.namespace,
            "command": command.order.name,
            "args": _encode_order(command.order),
            "targets": None if command.targets is None else list(command.targets),
            "issued_at": isoformat(command.issued_at),
            "expires_at": isoformat(command.expires_at),
            "reply_to": command.reply_to,
            "part": command.part,
            "parts": command.parts,
            "sender": command.sender,
        },
        LARGEST_COMMAND,
        f"command {command.order.name!r}",
        COMMAND,
        keyring,
    )


def address_of(body: bytes) -> Address:
    """The address of a command; raises :class:`BadMessage` when there is none."""
    return _address(_object(body, LARGEST_COMMAND))


def _address(fields: Mapping[str, Any]) -> Address:
    try:
        namespace, request_id, reply_to = _text(fields, "ns"), _text(fields, "id"), _text(fields, "reply_to")
        part = _whole(fields, "part")
        if not is_reply_name(namespace, reply_to):
            raise ValueError(f"reply_to {reply_to[:40]!r} is no reply inbox of namespace {namespace[:40]!r}")
        return Address(namespace, request_id, reply_to, part, _targets(fields.get("targets")))
    except ValueError as error:
        raise BadMessage(f"a command can't be read: {error}") from None


def decode_command(body: bytes, *, known: Callable[[str], bool]) -> Command:
    """The command of those bytes. ``known(name)`` says whether a name that isn't built in was registered.

    Raises :class:`Unreadable` where the sender can be told, else :class:`BadMessage`.
    """
    fields = _object(body, LARGEST_COMMAND)
    namespace, request_id, reply_to, part, targets = _address(fields)

    def unreadable(message: str, code: str) -> Unreadable:
        return Unreadable(message, code=code, reply_to=reply_to, request_id=request_id, part=part, targets=targets)

    version = fields.get("v")
    if version != VERSION or not isinstance(version, int) or isinstance(version, bool):
        raise unreadable(f"message version {str(version)[:40]!r} is not spoken here, only {VERSION}", "unknown-version")
    try:
        name = _text(fields, "command")
        if name not in _ORDERS and not known(name):
            raise unreadable(f"command {name!r} is not known to this worker", "unknown-command")
        return Command(
            request_id=request_id,
            namespace=namespace,
            order=_decode_order(name, _mapping(fields, "args")),
            issued_at=_time(fields, "issued_at"),
            expires_at=_time(fields, "expires_at"),
            reply_to=reply_to,
            targets=targets,
            part=part,
            parts=_whole(fields, "parts"),
            sender=None if fields.get("sender") is None else _text(fields, "sender"),
        )
    except (ValueError, OverflowError) as error:  # an offset can carry the year 1 out of the calendar
        raise unreadable(f"a command can't be read: {error}", "bad-message") from None


def encode_reply(reply: Reply, keyring: Keyring | None = None) -> bytes:
    """The reply as JSON, sealed where there are keys; raises :class:`BadMessage` when the payload is too large or can't be
    JSON."""
    bound = {"answers": reply.answers, "command_sha256": reply.command_digest}
    return _encode(
        {
            "v": VERSION,
            "id": reply.request_id,
            "ns": reply.namespace,
            "worker": reply.worker,
            "boot": reply.boot,
            "part": reply.part,
            "status": reply.status,
            "payload": reply.payload,
            "error": None if reply.error is None else _told(reply.error),
            **{name: value for name, value in bound.items() if value is not None},
        },
        LARGEST_REPLY,
        "a reply",
        REPLY,
        keyring,
    )


def _told(error: ReplyError) -> dict[str, str]:
    """Whatever a handler raised, as fields that the other end accepts."""
    code = error.code.encode("utf-8", "replace").decode()[:_LONGEST_TEXT] or "failed"
    message = error.message.encode("utf-8", "replace").decode()
    if len(message) > _LONGEST_EXPLANATION:
        message = message[: _LONGEST_EXPLANATION - 1] + "…"
    return {"code": code, "message": message or code}


def decode_reply(body: bytes) -> Reply:
    """The reply of those bytes; raises :class:`BadMessage`."""
    fields = _object(body, LARGEST_REPLY)
    if fields.get("v") != VERSION:
        raise BadMessage(f"a reply has version {str(fields.get('v'))[:40]!r}, not {VERSION}")
    try:
        status = _text(fields, "status")
        if status not in ("ok", "error"):
            raise ValueError(f"status {status!r} is neither ok nor error")
        error = None
        if status == "error":
            told = _mapping(fields, "error")
            error = ReplyError(_text(told, "code"), _text(told, "message", longest=_LONGEST_EXPLANATION))
        return Reply(
            request_id=_text(fields, "id"),
            namespace=_text(fields, "ns"),
            worker=_text(fields, "worker"),
            boot=_text(fields, "boot"),
            payload=_mapping(fields, "payload"),
            error=error,
            part=_whole(fields, "part"),
            answers=None if fields.get("answers") is None else _text(fields, "answers", longest=LONGEST_SIGNATURE),
            command_digest=None if fields.get("command_sha256") is None else _text(fields, "command_sha256"),
        )
    except ValueError as error_:
        raise BadMessage(f"a reply can't be read: {error_}") from None


def order_size(revocation: Revocation) -> int:
    """About how many bytes a revocation takes in a command."""
    texts = (revocation.task_id, revocation.reason or "", revocation.requested_by or "", revocation.namespace)
    # JSON escapes a quote in two characters, and what is beyond ASCII in up to twelve.
    size = 300 + sum(len(text) * (2 if text.isascii() and text.isprintable() else 12) for text in texts)
    return size + 2 * sum(len(proof) for proof in revocation.proofs)  # in which each quote is escaped once more


# -- orders -------------------------------------------------------------------------------------------------------------


def _encode_order(order: Order) -> dict[str, Any]:
    if isinstance(order, Inspect):
        asked = {"revoked": order.revoked, "limit": order.limit}
        return asked if order.before is None else {**asked, "before": order.before}
    if isinstance(order, Revoke):
        return {"revocations": [revocation.to_message() for revocation in order.revocations], "settle_s": order.settle}
    if isinstance(order, Call):
        return dict(order.args)
    return {}


def _decode_order(name: str, args: Mapping[str, Any]) -> Order:
    decode = _ORDERS.get(name)
    return Call(name, dict(args)) if decode is None else decode(args)


def _inspect(args: Mapping[str, Any]) -> Inspect:
    revoked = args.get("revoked", False)
    if not isinstance(revoked, bool):
        raise ValueError(f"revoked {revoked!r} is not true or false")
    before = None if args.get("before") is None else _whole(args, "before", default=0)
    return Inspect(revoked, _whole(args, "limit", default=1000), before)


def _revoke(args: Mapping[str, Any]) -> Revoke:
    records = args.get("revocations")
    if not isinstance(records, list):  # an empty one asks whether the worker would take them
        raise ValueError("revocations is not a list")
    settle = args.get("settle_s", 0)
    if not isinstance(settle, (int, float)) or isinstance(settle, bool) or not 0 <= settle <= 3600:
        raise ValueError(f"settle_s {settle!r} is not a number of seconds")
    revocations = []
    for record in records:
        if not isinstance(record, dict):
            raise ValueError("a revocation is not an object")
        revocations.append(Revocation.from_record(record))
    return Revoke(tuple(revocations), float(settle))


_ORDERS: dict[str, Callable[[Mapping[str, Any]], Order]] = {
    Ping.name: lambda _: Ping(),
    Inspect.name: _inspect,
    Stats.name: lambda _: Stats(),
    Revoke.name: _revoke,
}

#: Names that an application can't register.
BUILT_IN = frozenset(_ORDERS)


# -- fields -------------------------------------------------------------------------------------------------------------


def _encode(fields: Mapping[str, Any], largest: int, what: str, domain: bytes, keyring: Keyring | None) -> bytes:
    try:
        body = json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadMessage(f"{what} holds what JSON can't: {error}", code="not-json") from None
    if keyring is not None:
        body = sealed(body, domain, keyring)
    if len(body) > largest:
        raise BadMessage(f"{what} has {len(body)} bytes; at most {largest} are sent", code="too-large")
    return body


def _object(body: bytes, largest: int) -> dict[str, Any]:
    if len(body) > largest:
        raise BadMessage(f"a message of {len(body)} bytes; at most {largest} are read", code="too-large")
    try:
        fields = json.loads(body, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 are a ValueError as well
        raise BadMessage(f"a message is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadMessage(f"a message is {type(fields).__name__}, not an object")
    return fields


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is more than a number can hold")
    return number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _text(fields: Mapping[str, Any], name: str, *, longest: int = _LONGEST_TEXT) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value or len(value) > longest:
        raise ValueError(f"{name} {str(value)[:40]!r} is not text of 1 to {longest} characters")
    value.encode()  # half a surrogate pair is no text either, and that is a ValueError as well
    return value


def _whole(fields: Mapping[str, Any], name: str, *, default: int | None = None) -> int:
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ValueError(f"{name} {str(value)[:40]!r} is not a whole number")
    return value


def _mapping(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")
    return value


def _time(fields: Mapping[str, Any], name: str) -> datetime:
    return parse_isoformat(_text(fields, name))


def _targets(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > _MOST_TARGETS:
        raise ValueError("targets is not a list")
    return tuple(_text({"a target": target}, "a target") for target in value)
