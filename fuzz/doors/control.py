"""Messages of the control plane: commands, replies, heartbeats on the stream and in a roster."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from fuzz.oracle import Refused, asked, holds, is_json, same
from stem_kombu.backends.heartbeat import Heartbeat, Liveness
from stem_kombu.backends.heartbeat_reader import BeatReader, beat_text
from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.reply_collector import ReplyCollector
from stem_kombu.control.client.reports import Report, WorkerStatus
from stem_kombu.control.protocol.codec import Unreadable, decode_command, decode_reply, encode_command, encode_reply
from stem_kombu.control.protocol.messages import (
    Call,
    Command,
    Inspect,
    Order,
    Ping,
    Reply,
    ReplyError,
    Revoke,
    Stats,
    matches,
)
from stem_kombu.control.server.replay_guard import ReplayGuard, Verdict
from stem_kombu.control.server.subscription import probe_body, probe_token
from stem_kombu.errors import BadMessage
from stem_kombu.revocation import Revocation
from stem_kombu.transports import names
from stem_kombu.transports.redis.control_queues import body_in
from stem_kombu_cli.commands import worker_call, worker_inspect, worker_ping, worker_revoke, worker_stats, worker_status
from stem_kombu_cli.commands.asking import readable_part

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
NAMESPACE, WORKER = "stem", "worker-1"


def known(name: str) -> bool:
    return name == "reload-model"


# -- commands -------------------------------------------------------------------------------------------------------------


def command(data: bytes) -> None:
    token = probe_token(data)
    if token is not None:
        holds(len(token) <= 200, "a token of a message to oneself is long", token)
        asked((), probe_body, token)
    try:
        decoded = asked(BadMessage, decode_command, data, known=known)
    except Refused as refused:
        cause = refused.__cause__
        if isinstance(cause, Unreadable):
            # Somebody will be told: at an address of ours, in words that fit, and only by who was meant.
            holds(cause.reply_to.startswith("stem-"), "a refusal would be sent to a strange queue", cause.reply_to)
            error = ReplyError(cause.code, str(cause))
            told = encode_reply(Reply(cause.request_id, NAMESPACE, WORKER, "b", {}, error, cause.part))
            holds(decode_reply(told).error is not None, "a refusal can't be read by its receiver", told)
            matches(cause.targets, WORKER)
        raise
    holds(names.is_reply_name(decoded.namespace, decoded.reply_to), "a strange address was let in", decoded.reply_to)
    same(decode_command(encode_command(decoded), known=known), decoded, "a command")
    admission = ReplayGuard(WORKER, NAMESPACE, NOW.timestamp, SYSTEM)
    first = admission.judge(decoded)
    if first is Verdict.OBEY:
        holds(admission.judge(decoded) is Verdict.KNOWN, "a command is obeyed twice", decoded)
    if isinstance(decoded.order, Revoke):
        for revocation in decoded.order.revocations:
            revocation.is_expired(NOW)
            is_json(revocation.to_record(), "a revocation")


def command_seeds() -> Iterator[bytes]:
    reply_to = names.reply_name(NAMESPACE, "client")
    orders: list[Order] = [
        Ping(),
        Inspect(True, 20),
        Stats(),
        Call("reload-model", {"version": 3}),
        Revoke((Revocation(NAMESPACE, "t-1", 7, NOW, True, "INC-42", "me@host", NOW + timedelta(days=7)),), 2.5),
    ]
    for order in orders:
        sent = Command(
            "r-1", NAMESPACE, order, NOW, NOW + timedelta(seconds=5), reply_to, (WORKER, "w*"), 0, 1, "me@host"
        )
        yield encode_command(sent)
        yield encode_command(replace(sent, targets=None, sender=None))
    yield probe_body("0123456789abcdef")


# -- replies --------------------------------------------------------------------------------------------------------------


def reply(data: bytes) -> None:
    decoded = asked(BadMessage, decode_reply, data)
    same(decode_reply(encode_reply(decoded)), decoded, "a reply")
    # What a client does with it, and what the command line shows: nobody's answer may hide the others'.
    collector = ReplyCollector("r-1", NAMESPACE, None, 1, asked_at=0.0)
    collector.expect([WORKER])
    collector.hear(decoded, 0.25)
    collector.hear(replace(decoded, request_id="r-1", namespace=NAMESPACE, part=0), 0.25)
    report = Report("ping", NAMESPACE, "r-1", 5.0, 0.25, collector.expected, collector.silent, collector.replies())
    is_json(report.to_dict(), "a report")
    shows: tuple[Any, ...] = (
        worker_ping.text,
        worker_stats.text,
        worker_call.text,
        worker_revoke.text,
        worker_inspect.text,
    )
    for show in shows:
        readable, unreadable = readable_part(report, show)
        holds(len(readable.replies) + len(unreadable) == len(report.replies), "an answer got lost", report)
        if readable.replies:
            show(readable, False).encode("utf-8", "backslashreplace")


def reply_seeds() -> Iterator[bytes]:
    task = {
        "id": "t-1", "name": "tasks.sleep", "queue": "default", "mode": "isolate", "attempt": 1, "args": "1, 2",
        "runtime_s": 3.25, "progress": 0.5, "checkpoint_s_ago": None, "terminate_requested_s_ago": 0.5, "pid": 4711,
    }  # fmt: skip
    record = Revocation(NAMESPACE, "t-1", 7, NOW, True, "INC-42", "me@host", None).to_record()
    facts: dict[str, Any] = {
        "state": "running", "uptime_s": 12.5, "version": "0.1.0", "hostname": "host", "pid": 4711, "rss_bytes": 50_000_000,
        "load_avg": 0.5, "in_flight": 1, "reserved": 2, "concurrency": 4, "prefetch": 8, "totals": {"received": 3},
        "broker": "redis://h/0", "transport": "redis", "backend": None, "revoked_count": 1, "revoke_store": "sqlite:///s.db",
        "bounds": {"sync_s": 10.0}, "queues": {"default": {"depth": 3, "consuming": True}},
        "pool": [{"slot": 0, "pid": 1, "state": "idle", "tasks_done": 7, "rss_bytes": 1000, "task_id": None}],
    }  # fmt: skip
    payloads: list[dict[str, Any]] = [
        {"state": "running", "uptime_s": 12.5, "concurrency": 4, "in_flight": 1, "queues": ["default"]},
        {"in_flight": [task], "reserved": 2, "revoked_count": 1, "revision": 7, "synced_s_ago": 0.1, "store_error": None,
         "revoked": [record], "revoked_truncated": True},
        facts,
        {"applied": ["t-1"], "stale": [], "expired": [], "in_flight": ["t-1"], "terminated": ["t-1"], "pending": [],
         "finished": [{"id": "t-2", "state": "succeeded"}]},
    ]  # fmt: skip
    for payload in payloads:
        yield encode_reply(Reply("r-1", NAMESPACE, WORKER, "boot", payload))
    yield encode_reply(Reply("r-1", NAMESPACE, WORKER, "boot", {}, ReplyError("busy", "too many commands")))


def redis_mail(data: bytes) -> None:
    """A reply as it lies in a list of Redis."""
    body = asked(ValueError, body_in, data)
    holds(isinstance(body, bytes) and len(body) <= len(data) * 3, "a body that is larger than its message", body)
    asked(BadMessage, decode_reply, body)


def redis_mail_seeds() -> Iterator[bytes]:
    for body in reply_seeds():
        properties = {
            "body_encoding": "base64",
            "delivery_tag": "1",
            "delivery_info": {"exchange": "", "routing_key": "q"},
        }
        yield json.dumps({"body": base64.b64encode(body).decode(), "headers": {}, "properties": properties}).encode()
        yield json.dumps({"body": body.decode(), "properties": {"body_encoding": "utf-8"}}).encode()


# -- heartbeats -----------------------------------------------------------------------------------------------------------


def heartbeat(data: bytes) -> None:
    fields = asked((ValueError, RecursionError), json.loads, data)
    # In a roster what can't be read is left out, whatever it is; on the stream it is dropped.
    beats, aside = BeatReader("the roster").all(NAMESPACE, [(WORKER, data, 1_769_860_800_000_000)])
    holds(len(beats) + len(aside) == 1, "an entry of the roster is counted otherwise than once", beats, aside)
    for beat in beats:
        again, missing = BeatReader("the roster").all(NAMESPACE, [(WORKER, beat_text(beat), 1_769_860_800_000_000)])
        holds(not missing, "an entry that was read can't be written", beat)
        same(again[0], beat, "an entry of the roster")
    beat = asked((ValueError, KeyError, TypeError), Heartbeat.from_record, fields)
    is_json(beat.to_record(), "a heartbeat")
    same(Heartbeat.from_record(json.loads(json.dumps(beat.to_record()))), beat, "a heartbeat")
    for moment in (NOW, datetime.max.replace(tzinfo=timezone.utc), datetime.min.replace(tzinfo=timezone.utc)):
        status = WorkerStatus.at(beat, moment)
        holds(status.liveness in Liveness and status.age >= 0, "a worker is neither alive nor dead", status)
        is_json(status.to_dict(), "a worker's status")
        worker_status.text(_status(status), False)
    holds(beat.lifetime > 0, "a beat lives no time", beat)


def _status(status: WorkerStatus) -> Any:
    from stem_kombu.control.client.reports import StatusReport

    return StatusReport(NAMESPACE, (status,))


def heartbeat_seeds() -> Iterator[bytes]:
    beat = Heartbeat(
        NAMESPACE, WORKER, "boot", "stem-stem-ctl-i-worker-1", 10.0, "host", 4711, "0.1.0", "running", 4, 1, ("default",),
        50_000_000, 0.5, 12.5, {"received": 3, "succeeded": 2}, NOW,
    )  # fmt: skip
    yield json.dumps(beat.to_record()).encode()
    yield json.dumps(
        replace(beat, timestamp=None, rss_bytes=None, load_avg=None, state="draining").to_record()
    ).encode()
    yield beat_text(beat).encode()
