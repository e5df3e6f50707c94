"""Signed messages that somebody has changed: ``python -m fuzz.signatures --count 1000000``. None may be accepted.

Commands and answers (by HMAC and by ed25519), heartbeats, proofs of revocations and tasks, each with its signature; one is
changed by a byte or more, cut, spliced with another one, or in a part of its JSON, and then verified as its reader does. What
says the very same as before (a heartbeat with its members in another order) is no change. Ends with 1, and shows what was
accepted.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from fuzz.mutation import mutated
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.verified_roster import signed_beat, verified_beat
from stem_kombu.bound import Bound, bounds_of
from stem_kombu.control.protocol.codec import encode_command, encode_reply
from stem_kombu.control.protocol.messages import Call, Command, Inspect, Order, Ping, Reply, Revoke
from stem_kombu.messages.encoding import (
    CONTENT_ENCODING,
    CONTENT_TYPE,
    HEADER_SIGNATURE_V1,
    HEADER_SIGNATURE_V2,
    Envelope,
    encode_task,
)
from stem_kombu.messages.signatures import task_signer, task_verifier
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.settings import SigningSettings
from stem_kombu.signing.configuration import open_keyring
from stem_kombu.signing.keyring import Keyring, Untrusted
from stem_kombu.signing.proofs import proven, signed_drafts
from stem_kombu.signing.seal import COMMAND, REPLY, signature_of, unsealed
from stem_kombu.task import TaskMessage
from stem_kombu.transports import names

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
_HMAC = SigningSettings(
    keys="ops:b3BzLW9wcy1vcHMtb3BzLW9wcy1vcHM=,fleet:ZmxlZXQtZmxlZXQtZmxlZXQtZmxlZXQ=", active_key="ops"
)
_PAIR = SigningSettings(
    algorithm="ed25519", private_keys="ed:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", active_key="ed"
)
_BOTH = replace(_HMAC, private_keys=_PAIR.private_keys, tasks="require")


def _ring(settings: SigningSettings) -> Keyring:
    ring = open_keyring(settings)
    assert ring is not None
    return ring


OPS, ED, READER = _ring(_HMAC), _ring(_PAIR), _ring(_BOTH)


@dataclass(frozen=True)
class Kind:
    """``accepts(data)`` is what the message says where its reader believes it, ``None`` where it doesn't."""

    name: str
    seeds: list[bytes]
    accepts: Callable[[bytes], object]


def _commands(keys: Keyring) -> list[bytes]:
    record = Revocation("stem", "t-1", 7, NOW, True, "INC-42", "me@host", None, _draft(keys).proofs)
    orders: list[Order] = [Ping(), Inspect(True, 20), Call("reload", {"version": 3}), Revoke((record,), 2.5)]
    reply_to, later = names.reply_name("stem", "client"), NOW + timedelta(seconds=5)
    return [
        encode_command(Command(f"r-{number}", "stem", order, NOW, later, reply_to, targets, sender="me@host"), keys)
        for number, order in enumerate(orders)
        for targets in (None, ("alpha", "b*"))
    ]


def _replies(keys: Keyring) -> list[bytes]:
    answers = signature_of(_commands(keys)[0])
    payloads: list[dict[str, Any]] = [
        {},
        {"state": "running", "queues": ["default"]},
        {"applied": ["t-1"], "pending": []},
    ]
    return [encode_reply(Reply("r-1", "stem", "alpha", "boot", one, None, 0, answers), keys) for one in payloads]


def _draft(keys: Keyring) -> RevocationDraft:
    draft = RevocationDraft("t-1", True, "bad deploy", "me@host", 3600.0)
    return signed_drafts([draft], keys, namespace="stem", now=NOW, bound=Bound(2, NOW))[0]


def _bytes_of(domain: bytes) -> Callable[[bytes], object]:
    def accepts(data: bytes) -> object:
        unsealed(data, domain, READER)
        return data

    return accepts


def _beat(keys: Keyring) -> bytes:
    beat = Heartbeat(
        "stem", "alpha", "boot", "inbox", 10.0, "host", 4711, "0.1.0", queues=("a", "b"), totals={"started": 3}
    )
    return json.dumps(signed_beat(beat, keys, NOW).to_record(), separators=(",", ":")).encode()


def _accepts_beat(data: bytes) -> object:
    beat = verified_beat(Heartbeat.from_record(json.loads(data)), READER, "stem", NOW)
    return replace(beat, timestamp=None).to_record()


def _accepts_record(data: bytes) -> object:
    record = proven(Revocation.from_record(json.loads(data)), READER, NOW)
    # Version and time of issue are the store's, and an earlier end gives nobody a right.
    return record.namespace, record.task_id, record.terminate, record.reason, record.requested_by, bounds_of(record)


def _record(keys: Keyring) -> bytes:
    record = Revocation("stem", "t-1", 7, NOW, True, "bad deploy", "me@host", None, _draft(keys).proofs)
    return json.dumps(record.to_message(), separators=(",", ":")).encode()


def _task(settings: SigningSettings) -> bytes:
    sign = task_signer(replace(settings, tasks="require"))
    assert sign is not None
    message = TaskMessage("t-1", "tasks.add", (1, 2), {"b": 3}, "images", enqueued_at=NOW, headers={"tenant": "shop"})
    signed: Envelope = sign("images", encode_task(message))
    fields = {
        "headers": signed.headers,
        "body": signed.body.decode(),
        "queue": "images",
        "properties": signed.properties,
    }
    return json.dumps({**fields, "type": signed.content_type, "encoding": signed.content_encoding}).encode()


class _Raw:
    def __init__(self, fields: dict[str, Any]) -> None:
        self.headers, self.body, self.properties = fields["headers"], fields["body"], fields["properties"]
        self.content_type, self.content_encoding = fields["type"], fields["encoding"]
        self.delivery_info = {"routing_key": fields["queue"]}


_verify = task_verifier(_BOTH, READER)
#: Headers that only people look at, and that brokers and monitors may change.
_UNSIGNED = (
    "lang",
    "shadow",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "stamps",
    "stamped_headers",
    "replaced_task_nesting",
    "tenant",  # an own header as Celery's tasks see it; a Stem worker's handler gets those that stem-headers holds
    HEADER_SIGNATURE_V1,
    HEADER_SIGNATURE_V2,
)


def _accepts_task(data: bytes) -> object:
    fields = json.loads(data)
    assert _verify is not None
    texts = (fields[name] for name in ("body", "queue"))
    if not all(isinstance(text, str) for text in texts) or not _verify(_Raw(fields)):
        return None
    # What is missing says the same as what is null; a message without a content type is JSON.
    headers, properties = fields["headers"], fields["properties"]
    how = fields["type"] or CONTENT_TYPE, fields["encoding"] or CONTENT_ENCODING
    said = [headers.get(name) for name in sorted(_TASK_HEADERS - set(_UNSIGNED) | {"compression", "stem-eta"})]
    sent = [properties.get(name) or None for name in ("correlation_id", "reply_to")]
    return fields["queue"], fields["body"], how, said, sent


_TASK_HEADERS = set(json.loads(_task(_HMAC))["headers"])

KINDS = [
    Kind("command, hmac-sha256", _commands(OPS), _bytes_of(COMMAND)),
    Kind("command, ed25519", _commands(ED), _bytes_of(COMMAND)),
    Kind("answer, hmac-sha256", _replies(OPS), _bytes_of(REPLY)),
    Kind("answer, ed25519", _replies(ED), _bytes_of(REPLY)),
    Kind("heartbeat", [_beat(OPS), _beat(ED)], _accepts_beat),
    Kind("revocation", [_record(OPS), _record(ED)], _accepts_record),
    Kind("task", [_task(_HMAC), _task(_PAIR)], _accepts_task),
]


def changed(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """The message, changed in one of many ways."""
    way = rng.random()
    if way < 0.35 and (document := mutated(data, 1 << 16, rng)) is not None:
        return document
    at, to = sorted((rng.randrange(len(data)), rng.randrange(len(data) + 1)))
    if way < 0.55:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if way < 0.65:
        return data[:at] + bytes([rng.randrange(256)]) + data[at:]
    if way < 0.75:
        return data[:at] + data[to:]
    if way < 0.8:
        return data[:at] + data[at:to] * 2 + data[to:]
    other = rng.choice(others)
    mark = rng.choice((b',"sig":"', b'","', b":", b","))
    if mark in data and mark in other:  # the head of one, the tail of another: most of all its signature
        return data[: data.rindex(mark)] + other[other.rindex(mark) :]
    return data[:at] + other[at:]


def accepted(
    count: int, seed: int, report: Callable[[str], None] = lambda line: None
) -> tuple[int, list[tuple[str, bytes]]]:
    """How many changed messages were verified, and those that were accepted although they say something else."""
    rng, found, done = random.Random(seed), [], 0
    pool = [one for kind in KINDS for one in kind.seeds]
    said = {kind.name: [kind.accepts(one) for one in kind.seeds] for kind in KINDS}
    for kind in KINDS:
        assert None not in said[kind.name], f"{kind.name}: what is honest is refused"
    while done < count:
        kind = KINDS[done % len(KINDS)]
        place = rng.randrange(len(kind.seeds))
        data = changed(kind.seeds[place], pool, rng)
        if data in pool:
            continue  # the head of one and the tail of another may be a third
        done += 1
        try:
            says = kind.accepts(data)
        except (Untrusted, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            says = None  # refused, or not even a message
        if says is not None and says not in said[kind.name]:
            found.append((kind.name, data))
        if done % 100_000 == 0:
            report(f"{done} changed messages verified, {len(found)} accepted")
    return done, found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz.signatures", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    began = time.monotonic()
    done, found = accepted(given.count, seed, lambda line: print(line, flush=True))
    print(f"signatures: {done} changed messages (seed {seed}), {len(found)} accepted, {time.monotonic() - began:.0f} s")
    for name, data in found[:20]:
        print(f"accepted: {name}: {data!r}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
