"""What Celery's tools say to a worker: the messages of its remote control."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fuzz.oracle import Refused, asked, holds, is_json
from stem_kombu.celery_monitors.commands import Panel
from stem_kombu.celery_monitors.pidbox import PidboxServer
from stem_kombu.celery_monitors.verbs import Changes
from stem_kombu.clock import SYSTEM
from stem_kombu.control.auditor import Auditor
from stem_kombu.control.client.reports import WorkerReply
from stem_kombu.control.directive_writer import DirectiveWriter
from stem_kombu.control.verification import Verifier
from stem_kombu.errors import StemError
from stem_kombu.revocation import RevocationDraft, checked_task_id
from stem_kombu.settings import Settings
from stem_kombu.stores.registry import open_revoke_store
from tests.control.fleet import FakeWorker, identity, running_task


@dataclass
class _Exchange:
    """Where replies go: nobody asks in vain, and nothing is sent that is no JSON."""

    said: int = 0

    def __call__(self, answer: Any, routing_key: str, ticket: str | None) -> None:
        self.said += 1
        is_json(answer, "an answer to Celery")


def _revoke(drafts: Sequence[RevocationDraft]) -> None:
    for draft in drafts:
        checked_task_id(draft.task_id)
        holds(isinstance(draft.terminate, bool), "terminate is neither true nor false", draft)


class _NoFleet:
    def roster_view(self) -> None:
        return None

    def ask(self) -> list[WorkerReply]:
        return []


@lru_cache(maxsize=1)
def _writer() -> DirectiveWriter:
    store, verifier = open_revoke_store("memory://fuzz"), Verifier.of(Settings.from_env({}).signing, clock=SYSTEM)
    return DirectiveWriter(store, "fuzz", verifier, _NoFleet(), lambda: Auditor(store, "fuzz", None))


@lru_cache(maxsize=1)
def _board() -> PidboxServer:
    worker = FakeWorker(identity("worker-1"), tasks=[running_task("t-1")])
    changes = Changes(_revoke, _writer)
    panel = Panel("worker-1@host", worker, lambda: ["tasks.add"], changes, lambda: None)
    return PidboxServer("worker-1@host", panel.handlers(), _Exchange())


def celery_control(data: bytes) -> None:
    body = asked((ValueError, RecursionError), json.loads, data)
    if not asked(StemError, _board().heard, body):
        raise Refused


def celery_control_seeds() -> Iterator[bytes]:
    reply_to = {"exchange": "reply.celery.pidbox", "routing_key": "0e1f"}
    for method, arguments in (
        ("ping", {}), ("active", {}), ("reserved", {}), ("revoked", {}), ("registered", {"taskinfoitems": []}), ("stats", {}),
        ("query_task", {"ids": ["t-1"]}), ("revoke", {"task_id": ["t-9"], "terminate": True, "signal": "SIGTERM"}),
        ("revoke", {"task_id": "t-9"}), ("rate_limit", {"task_name": "a", "rate_limit": "1/m"}), ("conf", {}),
        ("active_queues", {}), ("hello", {"from_node": "x", "revoked": {}}),
    ):  # fmt: skip
        yield json.dumps({
            "method": method, "arguments": arguments, "destination": None, "pattern": None, "matcher": None,
            "ticket": "12-34", "reply_to": reply_to,
        }).encode()  # fmt: skip
    yield json.dumps({"method": "ping", "arguments": {}, "destination": ["worker-1@host"], "pattern": "w*",
                      "matcher": "glob"}).encode()  # fmt: skip
