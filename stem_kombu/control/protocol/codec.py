"""Control messages as bytes, and back: every field is checked once, here (G17).

JSON only, of a bounded size, in a known version. What can't be read raises :class:`~stem_kombu.errors.BadMessage`; where
the sender can still be answered, the exception carries the address (:class:`Unreadable`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from stem_kombu.clock import isoformat
from stem_kombu.control.protocol.messages import (
    WITHOUT_ARGUMENTS,
    Call,
    Command,
    Inspect,
    Obey,
    Order,
    Reply,
    ReplyError,
    Revoke,
    Shutdown,
    ShutdownMode,
    Stats,
)
from stem_kombu.control.protocol.selecting import SELECTING, encode_selecting
from stem_kombu.directive import Directive
from stem_kombu.errors import BadMessage
from stem_kombu.fields import (
    LONGEST_TEXT,
    UNLIMITED,
    FieldError,
    flag,
    items,
    json_value,
    mapping,
    moment,
    number,
    optional,
    text,
    texts,
    whole,
)
from stem_kombu.revocation_page import from_records
from stem_kombu.signing.keyring import LONGEST_SIGNATURE, Keyring
from stem_kombu.signing.seal import COMMAND, REPLY, sealed
from stem_kombu.transports.names import is_reply_name

VERSION = 1
#: Bytes of a command and of a reply. A reply may list a thousand revocations with long reasons.
LARGEST_COMMAND = 1024 * 1024
LARGEST_REPLY = 32 * 1024 * 1024
_MOST_TARGETS = 10_000
#: Parts of a command, and replies that an order asks for, are fewer.
_WHOLE = 2**31
#: Seconds for which a revoke waits at most for tasks to end.
_LONGEST_SETTLE = 3600
#: Seconds that a shutdown waits at most before it escalates.
_LONGEST_GRACE = 30 * 86_400
#: Characters of an error's message.
_LONGEST_EXPLANATION = 10_000


class Unreadable(BadMessage):
    """A command that can't be read, but whose sender can be answered: ``reply_to``, ``request_id`` and ``part`` are known.

    ``targets`` are the workers that it names, as far as they can be read; no other worker should answer.
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
    """Where a command came from and which workers it names: what is known of a command that is not verified."""

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


def _address(fields: Mapping[str, object]) -> Address:
    try:
        namespace, request_id, reply_to = texts(fields, "ns", "id", "reply_to")
        part = whole(fields.get("part"), "part", below=_WHOLE)
        if not is_reply_name(namespace, reply_to):
            raise ValueError(f"reply_to {reply_to[:40]!r} is no reply inbox of namespace {namespace[:40]!r}")
        return Address(namespace, request_id, reply_to, part, _targets(fields.get("targets")))
    except ValueError as error:
        raise BadMessage(f"a command can't be read: {error}") from None


def decode_command(body: bytes, *, known: Callable[[str], bool]) -> Command:
    """The command of those bytes. ``known(name)`` tells whether a name that isn't built in was registered.

    Raises :class:`Unreadable` where the sender can be answered, else :class:`BadMessage`.
    """
    fields = _object(body, LARGEST_COMMAND)
    namespace, request_id, reply_to, part, targets = _address(fields)

    def unreadable(message: str, code: str) -> Unreadable:
        return Unreadable(message, code=code, reply_to=reply_to, request_id=request_id, part=part, targets=targets)

    version = fields.get("v")
    if type(version) is not int or version != VERSION:
        raise unreadable(f"message version {str(version)[:40]!r} is not supported, only {VERSION}", "unknown-version")
    try:
        name = text(fields.get("command"), "command")
        decode = _ORDERS.get(name)
        if decode is None and not known(name):
            raise unreadable(f"command {name!r} is not known to this worker", "unknown-command")
        args = mapping(fields.get("args"), "args")
        return Command(
            request_id=request_id,
            namespace=namespace,
            order=Call(name, args) if decode is None else decode(args),
            issued_at=moment(fields.get("issued_at"), "issued_at"),
            expires_at=moment(fields.get("expires_at"), "expires_at"),
            reply_to=reply_to,
            targets=targets,
            part=part,
            parts=whole(fields.get("parts"), "parts", below=_WHOLE),
            sender=optional(text, fields.get("sender"), "sender"),
        )
    except ValueError as error:
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
            "status": "ok" if reply.error is None else "error",
            "payload": reply.payload,
            "error": None if reply.error is None else _error_fields(reply.error),
            **{name: value for name, value in bound.items() if value is not None},
        },
        LARGEST_REPLY,
        "a reply",
        REPLY,
        keyring,
    )


def _error_fields(error: ReplyError) -> dict[str, str]:
    """What a handler raised, as fields that the client accepts."""
    code = error.code.encode("utf-8", "replace").decode()[:LONGEST_TEXT] or "failed"
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
        request_id, namespace, worker, boot, status = texts(fields, "id", "ns", "worker", "boot", "status")
        return Reply(
            request_id,
            namespace,
            worker,
            boot,
            payload=mapping(fields.get("payload"), "payload"),
            error=None if status == "ok" else _reply_error(status, fields.get("error")),
            part=whole(fields.get("part"), "part", below=_WHOLE),
            answers=optional(text, fields.get("answers"), "answers", most=LONGEST_SIGNATURE),
            command_digest=optional(text, fields.get("command_sha256"), "command_sha256"),
        )
    except ValueError as error:
        raise BadMessage(f"a reply can't be read: {error}") from None


def _reply_error(status: str, told: object) -> ReplyError:
    if status != "error":
        raise FieldError(f"status {status[:40]!r} is neither ok nor error")
    error = mapping(told, "error")
    return ReplyError(text(error.get("code"), "code"), text(error.get("message"), "message", most=_LONGEST_EXPLANATION))


# -- orders -------------------------------------------------------------------------------------------------------------


def _encode_order(order: Order) -> dict[str, object]:
    if isinstance(order, Inspect):
        asked: dict[str, object] = {"revoked": order.revoked, "limit": order.limit}
        return asked if order.before is None else {**asked, "before": order.before}
    if isinstance(order, Revoke):
        records = [revocation.to_message() for revocation in order.revocations]
        told: dict[str, object] = {"revocations": records, "settle_s": order.settle}
        return {**told, "fates": True} if order.fates else told
    if isinstance(order, Shutdown):
        return {
            "mode": order.mode.value,
            "grace_s": order.grace,
            "then": None if order.then is None else order.then.value,
            "exit_code": order.exit_code,
            "reason": order.reason,
            "requested_by": order.requested_by,
        }
    if isinstance(order, Obey):
        return {"directives": [directive.to_record() for directive in order.directives], "settle_s": order.settle}
    if isinstance(order, Call):
        return dict(order.args)
    if isinstance(order, Stats) and order.measures:
        return {"measures": True}
    return encode_selecting(order)


def _inspect(args: Mapping[str, object]) -> Inspect:
    return Inspect(
        flag(args.get("revoked", False), "revoked"),
        whole(args.get("limit", 1000), "limit", below=_WHOLE),
        optional(whole, args.get("before"), "before", below=_WHOLE),
    )


def _revoke(args: Mapping[str, object]) -> Revoke:
    # An empty list asks whether the worker would accept them.
    records = items(args.get("revocations"), "revocations", most=UNLIMITED)
    settle = number(args.get("settle_s", 0), "settle_s", most=_LONGEST_SETTLE)
    fates = flag(args.get("fates", False), "fates")
    return Revoke(from_records(records), settle, fates)


def _shutdown(args: Mapping[str, object]) -> Shutdown:
    then = optional(text, args.get("then"), "then")
    return Shutdown(
        ShutdownMode(text(args.get("mode"), "mode")),
        number(args.get("grace_s", 0), "grace_s", most=_LONGEST_GRACE),
        None if then is None else ShutdownMode(then),
        whole(args.get("exit_code", 0), "exit_code", below=256),
        optional(text, args.get("reason"), "reason"),
        optional(text, args.get("requested_by"), "requested_by"),
    )


def _obey(args: Mapping[str, object]) -> Obey:
    settle = number(args.get("settle_s", 0), "settle_s", most=_LONGEST_SETTLE)
    return Obey(tuple(map(Directive.from_record, items(args.get("directives"), "directives"))), settle)


_ORDERS: dict[str, Callable[[Mapping[str, object]], Order]] = {
    **WITHOUT_ARGUMENTS,
    Inspect.name: _inspect,
    Stats.name: lambda args: Stats(flag(args.get("measures", False), "measures")),
    Revoke.name: _revoke,
    Shutdown.name: _shutdown,
    Obey.name: _obey,
    **SELECTING,
}

#: Names that an application can't register.
BUILT_IN = frozenset(_ORDERS)


# -- fields -------------------------------------------------------------------------------------------------------------


def _encode(fields: Mapping[str, object], largest: int, what: str, domain: bytes, keyring: Keyring | None) -> bytes:
    try:
        body = json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadMessage(f"{what} has a value that JSON can't hold: {error}", code="not-json") from None
    if keyring is not None:
        body = sealed(body, domain, keyring)
    if len(body) > largest:
        raise BadMessage(f"{what} has {len(body)} bytes; at most {largest} are sent", code="too-large")
    return body


def _object(body: bytes, largest: int) -> dict[str, object]:
    if len(body) > largest:
        raise BadMessage(f"a message of {len(body)} bytes; at most {largest} are read", code="too-large")
    try:
        return mapping(json_value(body), "a message")
    except FieldError as error:
        raise BadMessage(f"a message can't be read: {error}") from None


def _targets(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    return tuple([text(target, "a target") for target in items(value, "targets", most=_MOST_TARGETS)])
