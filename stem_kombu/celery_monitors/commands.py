"""What a Stem worker answers to Celery's remote control: ``celery inspect …``, Flower's questions, and ``revoke``.

Shapes are those of Celery 5.7. Verbs that change the worker are carried out by :mod:`stem_kombu.celery_monitors.verbs`; what Stem
has nothing for is answered with an error that says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from stem_kombu.celery_monitors.events import SOFTWARE
from stem_kombu.celery_monitors.verbs import UNSUPPORTED, Changes, SteeringVerbs, unsupported
from stem_kombu.control.server.worker_view import InFlightTask, WorkerView
from stem_kombu.revocation import RevocationDraft, storable_ids


class Panel:
    """``handlers()`` is what Kombu's pidbox calls, each with its state first and the arguments as keywords.

    Commands of Celery's tools are not signed. Where the fleet has keys, ``refuse(reason, text)`` counts what is refused for that,
    which is every verb that changes something, and arguments are hidden.
    """

    def __init__(
        self,
        node: str,
        view: WorkerView,
        names: Callable[[], Sequence[str]],
        changes: Changes,
        beat: Callable[[], None],
        *,
        refuse: Callable[[str, str], None] | None = None,
    ) -> None:
        self._node = node
        self._beat = beat
        self._view = view
        self._names = names
        self._revoke = changes.revoke
        self._steering = SteeringVerbs(view, changes, names)
        self._refuse = refuse

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Each verb with its answer."""
        known: dict[str, Callable[..., Any]] = {
            "ping": lambda state, **_: {"ok": "pong"},
            "active": lambda state, **_: [self._request(task) for task in self._view.in_flight()],
            "reserved": lambda state, **_: [],
            "scheduled": lambda state, **_: [],
            "revoked": lambda state, **_: [record.task_id for record in self._view.revoked_records(10_000)[0]],
            "registered": lambda state, **_: sorted(self._names()),
            "active_queues": lambda state, **_: self._queues(),
            "stats": lambda state, **_: self._stats(),
            "conf": lambda state, **_: self._conf(),
            "report": lambda state, **_: {"ok": f"stem-kombu {SOFTWARE['sw_ver']}"},
            "clock": lambda state, **_: {"clock": 0},
            "query_task": lambda state, ids=(), **_: self._query(ids),
            "enable_events": lambda state, **_: {"ok": "task events already enabled"},
            "disable_events": lambda state, **_: {"error": "set STEM_CELERY_EVENTS=false to switch events off"},
            "revoke": lambda state, task_id=(), terminate=False, **_: self._revoked(task_id, terminate),
            "terminate": lambda state, task_id=(), **_: self._revoked(task_id, True),
            "heartbeat": lambda state, **_: self._beat(),
            # What Celery's workers say to each other: nothing to tell them.
            "hello": lambda state, **_: None,
            "election": lambda state, **_: None,
        }
        aliases = {"dump_active": "active", "dump_reserved": "reserved", "dump_revoked": "revoked",
                   "dump_schedule": "scheduled", "dump_tasks": "registered"}  # fmt: skip
        known |= {alias: known[name] for alias, name in aliases.items()}
        known |= {verb: self._unsupported(verb) for verb in UNSUPPORTED}
        steering = self._steering.handlers()
        return known | (steering if self._refuse is None else {verb: self._refused(verb) for verb in steering})

    def _unsupported(self, verb: str) -> Callable[..., Any]:
        return lambda state, **_: unsupported(verb)

    def _refused(self, verb: str) -> Callable[..., Any]:
        return lambda state, **_: self._unsigned(verb, "stem worker --help")

    def _unsigned(self, verb: str, instead: str) -> dict[str, str]:
        assert self._refuse is not None
        self._refuse("unsigned", f"{verb!r}: it is not signed")
        return {"error": f"refused: {verb} is not signed, and this fleet obeys signed commands only ({instead})"}

    def _queues(self) -> list[dict[str, Any]]:
        facts = self._view.facts()
        return [_queue(name) for name in facts.queues if name not in facts.paused]

    def _revoked(self, given: Any, terminate: bool) -> dict[str, Any]:
        if self._refuse is not None:
            return self._unsigned("revoke", "stem worker revoke")
        ids = [given] if isinstance(given, str) else [str(one) for one in given or ()]
        good = list(storable_ids(ids))
        if refused := sorted(set(ids) - set(good)):
            if not good:
                return {"error": f"no task can have these ids: {', '.join(map(repr, refused))}"}
            ids = good
        who = f"Celery, through worker {self._node}"  # its commands do not say who gave them
        self._revoke([RevocationDraft(task_id, bool(terminate), "revoked through Celery", who) for task_id in good])
        return {"ok": f"tasks {', '.join(ids)} flagged as revoked"}

    def _request(self, task: InFlightTask) -> dict[str, Any]:
        return {
            "id": task.id,
            "name": task.name,
            "args": "(***)" if self._refuse is not None else f"({task.args})",
            "kwargs": "{}",
            "type": task.name,
            "hostname": self._node,
            "time_start": task.started_at.timestamp(),
            "acknowledged": False,
            "delivery_info": {
                "exchange": "",
                "routing_key": task.queue,
                "priority": None,
                "redelivered": None,
            },
            "worker_pid": task.pid,
        }

    def _query(self, ids: Any) -> dict[str, Any]:
        wanted = {ids} if isinstance(ids, str) else set(ids)
        return {task.id: ["active", self._request(task)] for task in self._view.in_flight() if task.id in wanted}

    def _stats(self) -> dict[str, Any]:
        facts, who = self._view.facts(), self._view.identity
        return {
            "total": {"stem": facts.totals.get("started", 0)},
            "pid": who.pid,
            "clock": "0",
            "uptime": round(facts.uptime),
            "prefetch_count": facts.prefetch,
            "broker": {"transport": facts.transport, "hostname": facts.broker, "alternates": []},
            "pool": {
                "implementation": "stem_kombu.execution",
                "max-concurrency": facts.concurrency,
                "processes": sorted({slot.pid for slot in facts.pool}) or [who.pid],
                "max-tasks-per-child": "N/A",
                "put-guarded-by-semaphore": True,
                "timeouts": [0, 0],
                "writes": {},
            },
            "rusage": {"maxrss": (facts.rss_bytes or 0) // 1024, "utime": os.times().user, "stime": os.times().system},
        }

    def _conf(self) -> dict[str, Any]:
        facts = self._view.facts()
        return {
            "broker_url": facts.broker,
            "result_backend": facts.backend,
            "task_default_queue": next(iter(facts.queues), None),
            "worker_concurrency": facts.concurrency,
            "accept_content": ["json"],
        }


def _queue(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "exchange": {"name": "", "type": "direct", "arguments": None, "durable": True, "passive": False,
                     "auto_delete": False, "delivery_mode": None, "no_declare": True},
        "routing_key": name,
        "queue_arguments": None,
        "binding_arguments": None,
        "consumer_arguments": None,
        "durable": True,
        "exclusive": False,
        "auto_delete": False,
        "no_ack": False,
        "alias": None,
        "bindings": [],
        "no_declare": None,
        "expires": None,
        "message_ttl": None,
        "max_length": None,
        "max_length_bytes": None,
        "max_priority": None,
    }  # fmt: skip


def refusal(verb: str) -> dict[str, str]:
    """The answer to a verb that means nothing here."""
    return {"error": f"a Stem worker has no {verb!r}; see stem worker --help"}
