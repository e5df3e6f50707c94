"""A history, indexed by what its events are about, and the questions of time that every promise asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.faults.history import Bounds, Event, History

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
#: The target of what befalls everybody: the machine had no time for the processes on it.
MACHINE = "machine"
#: What an index holds of somebody nothing is known of. Never changed.
NOTHING: dict[str, list[Event]] = {}
NONE: list[Event] = []


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept, and the events that show it, in their order."""

    promise: str
    what: str
    events: tuple[Event, ...]

    def __str__(self) -> str:
        return "\n  ".join([f"{self.promise}: {self.what}", *map(repr, self.events)])


def violation(promise: str, what: str, *events: Event | None) -> Violation:
    shown = {event.seq: event for event in events if event is not None}
    return Violation(promise, what, tuple(shown[seq] for seq in sorted(shown)))


def first_of(facts: dict[str, list[Event]], kind: str) -> Event | None:
    found = facts.get(kind)
    return found[0] if found else None


class Story:
    """A history, indexed by what events are about: ``story.tasks["t"]["started"]``."""

    __slots__ = ("apart", "before", "bounds", "faults", "history", "kinds", "requests", "runs", "tasks", "workers")

    def __init__(self, history: History) -> None:
        self.history = history
        self.bounds: Bounds = history.bounds
        self.apart, self.before = history.apart, history.before
        self.kinds: dict[str, list[Event]] = {}
        self.tasks: dict[str, dict[str, list[Event]]] = {}
        self.runs: dict[str, dict[str, list[Event]]] = {}
        self.requests: dict[str, dict[str, list[Event]]] = {}
        self.workers: dict[str, dict[str, list[Event]]] = {}
        #: target -> [begin, end or None]
        self.faults: dict[str, list[list[Event | None]]] = {}
        kinds, tasks, runs, requests = self.kinds, self.tasks, self.runs, self.requests
        for event in history.events:
            kind = event.kind
            kinds.setdefault(kind, []).append(event)
            if event.task is not None:
                tasks.setdefault(event.task, {}).setdefault(kind, []).append(event)
            if event.run is not None:
                runs.setdefault(event.run, {}).setdefault(kind, []).append(event)
            if event.request is not None:
                requests.setdefault(event.request, {}).setdefault(kind, []).append(event)
            if kind in _OF_WORKERS:
                self.workers.setdefault(event.by, {}).setdefault(kind, []).append(event)
            elif kind == "fault":
                self.faults.setdefault(event.target or "", []).append([event, None])
            elif kind == "healed":
                for span in self.faults.get(event.target or "", ()):
                    if span[1] is None and span[0] is not None and event.value in (None, span[0].value):
                        span[1] = event

    def of(self, kind: str) -> list[Event]:
        return self.kinds.get(kind, NONE)

    def disturbed(self, targets: Iterable[str], since: Event, until: Event) -> bool:
        """Whether a fault of one of the targets may have had an effect between two events."""
        if not self.faults:
            return False
        for target in (MACHINE, *targets):
            for begin, end in self.faults.get(target, ()):
                assert begin is not None
                over = end is not None and self.apart(end, since) > self.bounds.recovery
                if not over and not self.before(until, begin):
                    return True
        return False

    def paused(self, worker: str, at: Event, slack: float) -> float:
        """``slack``, and what a fault of the worker itself may have added to it before ``at``."""
        for begin, end in (*self.faults.get(worker, ()), *self.faults.get(MACHINE, ())):
            assert begin is not None
            if end is not None and self.apart(end, at) > slack:
                continue
            if self.before(at, begin):
                continue
            slack = float("inf") if begin.clock != at.clock else max(slack, at.at - begin.at + self.bounds.start_slack)
        return slack

    def alive(self, worker: str, since: Event, until: Event) -> bool:
        """Whether the incarnation surely consumed over the whole span."""
        facts = self.workers.get(worker, NOTHING)
        ready = facts.get("ready", NONE)
        return (
            bool(ready)
            and self.before(ready[0], since)
            and all(self.before(until, end) for kind in ("down", "stopping") for end in facts.get(kind, ()))
        )

    def live(self, stored: Event, at: Event) -> bool:
        """Whether a stored revocation surely counted at ``at``: not expired, not undone."""
        if stored.until is not None:
            if self.history.between(at.at, at.clock, stored.until, stored.clock) <= 0:
                return False
        for undone in self.tasks.get(stored.task or "", NOTHING).get("undone", NONE):
            concerns = (
                not self.before(undone, stored) if undone.version is None else undone.version > (stored.version or 0)
            )
            if concerns and self.history.between(at.at, at.clock, undone.began, undone.clock) <= 0:
                return False
        return True


_OF_WORKERS = frozenset({"up", "ready", "down", "stopping", "busy", "idle"})


def name_of(worker: str) -> str:
    """The name of an incarnation: ``alpha`` of ``alpha#2``."""
    return worker.partition("#")[0]


def could_not_be_told(story: Story, facts: dict[str, list[Event]], cancelled: Event, started: Event) -> bool:
    """Whether a worker could start the task although it is recorded as cancelled: the backend could not tell it, or the id
    was sent more than once and no revocation of it counts any more. One is honoured until it expires or is undone (G3), and
    who sends the id again after that, or has sent a message that nobody was given before, may mean it."""
    if story.disturbed(("backend", f"backend/{started.by}"), cancelled, started):
        return True
    stored = facts.get("stored", NONE)
    return len(facts.get("enqueued", NONE)) > 1 and bool(stored) and not any(story.live(s, started) for s in stored)


def sides(who: str, *servers: str) -> tuple[str, ...]:
    """What a fault may befall that comes between somebody and those servers: itself, the servers, its links to them."""
    names = (who, name_of(who))
    return (*names, *servers, *(f"{server}/{name}" for server in servers for name in names))


def stored_of(story: Story, task: str | None) -> list[Event]:
    return story.tasks.get(task or "", NOTHING).get("stored", NONE)


def undone_between(story: Story, task: str | None, first: Event, second: Event) -> Event | None:
    """The first undo of the task that was stored between two events."""
    for undone in story.tasks.get(task or "", NOTHING).get("undone", NONE):
        if story.before(first, undone) and story.before(undone, second):
            return undone
    return None


def seen_at(story: Story, task: str | None, version: int | None) -> bool:
    """Whether the store was seen to hold the task at that version or a later one."""
    return any(read.value and task in read.value and read.value[task][0] >= (version or 0) for read in story.of("read"))


def revoked(story: Story, task: str | None) -> bool:
    """Whether anybody has seen a revocation of the task, or a rule that strikes it."""
    facts = story.tasks.get(task or "", NOTHING)
    if "stored" in facts or "applied" in facts or seen_at(story, task, 0):
        return True
    return any(strikes(rule, sent) for rule in story.of("rule-stored") for sent in facts.get("enqueued", NONE))


def has_name(rule: Event, sent: Event) -> bool:
    """Whether a rule's selector matches what was sent."""
    return fnmatchcase(str(sent.value), rule.value["name"])


def strikes(rule: Event, sent: Event) -> bool:
    """Whether a rule revokes what was sent."""
    return has_name(rule, sent) and bool(sent.at < rule.value["before"])


def acknowledged_early(promise: str, story: Story, recorded: list[Event], acknowledged: Event) -> Iterator[Violation]:
    """Whether a message went before its outcome was recorded."""
    outcomes = [
        event
        for event in recorded
        if event.state in TERMINAL
        or (event.state == "retrying" and event.attempt == acknowledged.attempt)
        or event.attempt > acknowledged.attempt  # its successor was quicker
    ]
    if not outcomes:
        yield violation(promise, "acknowledged, and no outcome was recorded", acknowledged)
    elif all(story.before(acknowledged, event) for event in outcomes):
        yield violation(promise, "acknowledged before its outcome was recorded", acknowledged, outcomes[0])


def may_run_again(story: Story, first: Event, again: Event) -> bool:
    """Whether what became of the run that began with ``first`` may have been lost before ``again``."""
    worker = first.by
    facts = story.workers.get(worker, NOTHING)
    if any(not story.before(again, end) for kind in ("down", "stopping") for end in facts.get(kind, NONE)):
        return True
    if story.disturbed(sides(worker, "broker"), first, again) or story.disturbed((again.by,), first, again):
        return True
    run = story.runs.get(first.run or "", NOTHING)
    ended = first_of(run, "ended")
    return "child-killed" in run or "lost" in run or (ended is not None and ended.state == "released")
