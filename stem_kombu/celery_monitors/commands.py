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

    def handlers(self) -> dict[str, Callable[..., object]]:
        """Each verb with its answer."""
        known: dict[str, Callable[..., object]] = {
            "ping": _always({"ok": "pong"}),
            "active": self._active,
            "reserved": _always([]),
            "scheduled": _always([]),
            "revoked": self._revoked_ids,
            "registered": self._registered,
            "active_queues": self._queues,
            "stats": self._stats,
            "conf": self._conf,
            "report": _always({"ok": f"stem-kombu {SOFTWARE['sw_ver']}"}),
            "clock": _always({"clock": 0}),
            "query_task": self._query,
            "enable_events": _always({"ok": "task events already enabled"}),
            "disable_events": _always({"error": "set STEM_CELERY_EVENTS=false to switch events off"}),
            "revoke": self._revoke_some,
            "terminate": self._terminate,
            "heartbeat": self._heartbeat,
            # What Celery's workers say to each other: nothing to tell them.
            "hello": _always(None),
            "election": _always(None),
        }
        aliases = {"dump_active": "active", "dump_reserved": "reserved", "dump_revoked": "revoked",
                   "dump_schedule": "scheduled", "dump_tasks": "registered"}  # fmt: skip
        known |= {alias: known[name] for alias, name in aliases.items()}
        known |= {verb: self._unsupported(verb) for verb in UNSUPPORTED}
        steering = self._steering.handlers()
        return known | (steering if self._refuse is None else {verb: self._refused(verb) for verb in steering})

    def _unsupported(self, verb: str) -> Callable[..., object]:
        return _always(unsupported(verb))

    def _refused(self, verb: str) -> Callable[..., object]:
        def answer(*_: object, **__: object) -> dict[str, str]:
            return self._unsigned(verb, "stem worker --help")

        return answer

    def _unsigned(self, verb: str, instead: str) -> dict[str, str]:
        assert self._refuse is not None
        self._refuse("unsigned", f"{verb!r}: it is not signed")
        return {"error": f"refused: {verb} is not signed, and this fleet obeys signed commands only ({instead})"}

    def _active(self, *_: object, **__: object) -> list[dict[str, object]]:
        return [self._request(task) for task in self._view.in_flight()]

    def _revoked_ids(self, *_: object, **__: object) -> list[str]:
        return [record.task_id for record in self._view.revoked_records(10_000)[0]]

    def _registered(self, *_: object, **__: object) -> list[str]:
        return sorted(self._names())

    def _heartbeat(self, *_: object, **__: object) -> None:
        self._beat()

    def _queues(self, *_: object, **__: object) -> list[dict[str, object]]:
        facts = self._view.facts()
        return [_queue(name) for name in facts.queues if name not in facts.paused]

    def _revoke_some(self, *_: object, task_id: Any = (), terminate: object = False, **__: object) -> dict[str, Any]:
        if self._refuse is not None:
            return self._unsigned("revoke", "stem worker revoke")
        ids = [task_id] if isinstance(task_id, str) else [str(one) for one in task_id or ()]
        good = list(storable_ids(ids))
        if refused := sorted(set(ids) - set(good)):
            if not good:
                return {"error": f"no task can have these ids: {', '.join(map(repr, refused))}"}
            ids = good
        who = f"Celery, through worker {self._node}"  # its commands do not say who gave them
        self._revoke([RevocationDraft(one, bool(terminate), "revoked through Celery", who) for one in good])
        return {"ok": f"tasks {', '.join(ids)} flagged as revoked"}

    def _terminate(self, *_: object, task_id: object = (), **__: object) -> dict[str, object]:
        return self._revoke_some(task_id=task_id, terminate=True)

    def _request(self, task: InFlightTask) -> dict[str, object]:
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

    def _query(self, *_: object, ids: Any = (), **__: object) -> dict[str, object]:
        wanted = {ids} if isinstance(ids, str) else set(ids)
        return {task.id: ["active", self._request(task)] for task in self._view.in_flight() if task.id in wanted}

    def _stats(self, *_: object, **__: object) -> dict[str, object]:
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

    def _conf(self, *_: object, **__: object) -> dict[str, object]:
        facts = self._view.facts()
        return {
            "broker_url": facts.broker,
            "result_backend": facts.backend,
            "task_default_queue": next(iter(facts.queues), None),
            "worker_concurrency": facts.concurrency,
            "accept_content": ["json"],
        }


def _always(answer: object) -> Callable[..., object]:
    """What gives the same answer each time."""

    def answered(*_: object, **__: object) -> object:
        return answer

    return answered


def _queue(name: str) -> dict[str, object]:
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
