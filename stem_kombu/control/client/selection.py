"""What matches a selector at one moment: at workers, and in queues that can be searched without harm (G30)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from stem_kombu.clock import SYSTEM, isoformat
from stem_kombu.control.client.queues import QueueClient
from stem_kombu.control.client.reports import Report
from stem_kombu.control.protocol.selecting import MOST_NAMED
from stem_kombu.errors import BadMessage
from stem_kombu.messages.decoding import UnreadableTask, decode_delivery
from stem_kombu.selector import Selector, sent_at
from stem_kombu.settings import Settings

#: Ids that a preview shows of each kind.
MOST_SHOWN = 10
#: Waiting messages that one selection looks at, at most.
MOST_SEARCHED = 1_000_000
#: By how much a second look may find more than was confirmed.
TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be revoked. ``before``: only what was sent earlier, by the senders' clocks. ``is_past``: that is an earlier
    time than the store's now, so that nothing is known of a task without a time of sending. ``longer_than``: only what has run
    for so many seconds; then no rule is stored."""

    selector: Selector
    before: datetime
    is_past: bool = False
    longer_than: float | None = None
    undated: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """What matched at one moment. ``waiting`` is ``None`` where the broker can't be searched. ``scheduled`` of those that were
    found have an eta in the future. ``undated`` have no time of sending and are left alone. ``too_old`` are live workers that
    don't know selectors: they obey what is revoked by id, and no rule."""

    wish: Wish
    running: int = 0
    reserved: int = 0
    held: int = 0
    waiting: int | None = None
    scheduled: int = 0
    undated: int = 0
    ids: tuple[str, ...] = ()
    shown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    too_old: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Tasks that were found."""
        return len(self.ids)

    def to_dict(self) -> dict[str, Any]:
        wish = self.wish
        return {
            "selector": wish.selector.to_record(),
            "enqueued_before": isoformat(wish.before),
            "running_longer_than_s": wish.longer_than,
            "undated_match": wish.undated,
            "running": self.running,
            "reserved": self.reserved,
            "held": self.held,
            "waiting": self.waiting,
            "scheduled": self.scheduled,
            "undated": self.undated,
            "total": self.total,
            "ids": {kind: list(ids) for kind, ids in self.shown.items()},
            "too_old": list(self.too_old),
            "silent": list(self.silent),
            "notes": list(self.notes),
        }

    def counts(self) -> dict[str, object]:
        """What is kept of it with the rule: counts and no ids."""
        kinds = ("running", "reserved", "held", "waiting", "scheduled", "undated", "total")
        return {kind: getattr(self, kind) for kind in kinds}

    def has_grown(self, confirmed: Selection) -> bool:
        """Whether more match now than was confirmed, by more than a tenth."""
        return self.total > confirmed.total * (1 + TOLERANCE)


class Gathering:
    """Counts what matches, each task once: one that moves from a queue to a worker meanwhile may be seen in both."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._ids: dict[str, None] = {}
        self._counts: Counter[str] = Counter()
        self._shown: dict[str, list[str]] = {}
        self._is_searched = False
        self._too_old: list[str] = []
        self._silent: tuple[str, ...] = ()
        self._notes: list[str] = []

    def of_workers(self, report: Report) -> None:
        self._silent = report.silent
        self._notes += report.notes
        for reply in report.replies:
            if reply.error is not None:
                self._too_old.append(reply.worker)
                continue
            tasks = reply.payload.get("tasks", [])
            for task_id, _, phase, dated, _ in tasks:
                self._add(str(phase), str(task_id), dated=bool(dated))
            named = sum(int(reply.payload.get(phase, 0)) for phase in ("running", "reserved", "held"))
            if named > len(tasks):
                self._notes.append(f"worker {reply.worker} has {named} matching tasks and named {MOST_NAMED} of them")

    def of_queues(self, settings: Settings) -> None:
        """Search the queues, where that can be done."""
        wish, now = self._wish, SYSTEM.utcnow()
        with QueueClient(settings) as queues:
            searched = queues.search(wish.selector.may_wait_in)
            if searched is None:
                self._notes.append("this broker can't be searched: the rule alone revokes the messages that wait there")
                return
            self._is_searched = True
            for looked_at, raw in enumerate(searched):
                if looked_at >= MOST_SEARCHED:
                    self._notes.append(
                        f"the first {MOST_SEARCHED} waiting messages were looked at; the rule revokes the rest"
                    )
                    return
                headers = raw.headers
                if not isinstance(name := headers.get("task"), str) or not wish.selector.may_match(name):
                    continue
                try:
                    task = decode_delivery(raw).message
                except UnreadableTask as error:
                    task = error.task
                except BadMessage:
                    continue
                if not wish.selector.matches(task):
                    continue
                sent = sent_at(task)
                if sent is None or sent < wish.before:
                    scheduled = task.eta is not None and task.eta > now
                    self._add("waiting", task.task_id, dated=sent is not None, scheduled=scheduled)

    def selection(self) -> Selection:
        counts = self._counts
        return Selection(
            self._wish,
            counts["running"],
            counts["reserved"],
            counts["held"],
            counts["waiting"] if self._is_searched else None,
            counts["scheduled"],
            counts["undated"],
            tuple(self._ids),
            self._shown,
            tuple(sorted(self._too_old)),
            self._silent,
            tuple(self._notes),
        )

    def _add(self, kind: str, task_id: str, *, dated: bool, scheduled: bool = False) -> None:
        if task_id in self._ids:
            return
        if not dated and self._wish.is_past and not self._wish.undated:
            self._counts["undated"] += 1
            return
        self._ids[task_id] = None
        self._counts[kind] += 1
        self._counts["scheduled"] += scheduled
        shown = self._shown.setdefault(kind, [])
        if len(shown) < MOST_SHOWN:
            shown.append(task_id)
