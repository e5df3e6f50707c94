"""A history: what happened in a run, event by event, by whom and when on which clock.

Real processes and the simulation write the same events, and one checker (``tests.faults.promises``) judges both.

An event's ``at`` is in seconds on the clock that ``clock`` names. Times of one clock are compared as they are. Those of
two are compared only as far as :class:`Bounds` states how wide the clocks lie apart, and else never; so a history can
be incomplete in its order, but never accuses anybody of an order that nobody can know.

An observer notes a fact no earlier than it became one, and says ``began`` where the act took time: a revoke that was
``stored`` at 7 and began at 5 was durable at some moment between.

===================  ==================================================================================================
Work
``enqueued``         a producer's publication of ``task`` was confirmed; ``value`` is its name, where rules are judged
``started``          the handler of ``task``, ``attempt`` was entered, as ``run``, at worker ``by``
``checkpoint``       a checkpoint of ``run`` returned
``stopped``          TaskRevoked was raised in ``run``; ``value`` says where (``checkpoint``, ``await``, else), ``target``
                     the task whose revocation it names
``swallowed``        ``except Exception`` of ``run`` caught a TaskRevoked
``cleaned``          a ``finally`` block of ``run`` has run
``ended``            the handler of ``run`` is out: ``state`` is succeeded, failed, cancelled, or released
``child-killed``     the child that holds ``run`` was killed
``signalled``        worker ``by`` sent ``value`` (``term``, ``kill``) to process ``target``, which holds ``run`` of ``task``
``dead``             the child of worker ``by`` that held ``run`` of ``task``, ``attempt`` is no more, whatever ended it
``lost``             worker ``by`` reports that the child of ``run`` is lost
``pool``             worker ``by`` was seen with ``value`` = (children that work or wait, children that it should have)
``recorded``         the backend holds ``state`` for ``task``, ``attempt``; ``version`` of the revocation when cancelled
``verdict``          a revoke that waited was told that ``value`` became of ``task``
``acknowledged``     the message of ``task``, ``attempt`` was acknowledged
Revocations
``stored``           the store has said that it holds ``task`` at ``version`` (``terminate``, ``until`` on the same clock)
``store-failed``     the store refused ``request``
``broadcast``        ``request`` was published, with ``task`` and ``version``
``applied``          worker ``by`` holds ``task`` at ``version`` (``terminate``); ``value`` is its ladder, (seconds to SIGTERM,
                     seconds to SIGKILL)
``undone``           the revocation of ``task`` was taken back: ``value`` is its version, ``version`` that of the undo
``lifted``           worker ``by`` knows that what revoked ``task`` before ``version`` counts no more
``refused``          worker ``by`` has decided not to run ``task``, ``attempt``, as the revocation or rule ``version`` says
``pruned``           the store deleted ``task`` at ``version``
``read``             the store was read whole: ``value`` maps task to (version, terminate); or ``state`` is ``corrupt``
``cached``           worker ``by`` holds ``value`` revocations in memory
``rule-stored``      the store holds a rule at ``version``: ``value`` has the glob of ``name``, and until ``before`` (on the
                     producers' clock) what it strikes was sent; a ``stored`` of its change has this version as ``value``
``rule-applied``     worker ``by`` obeys the rule of ``version``
Pauses
``pause-stored``     the store holds a pause of all that is sent, at ``version``, for worker or glob ``value``, ``until`` then
``resume-stored``    the store holds at ``version`` that a pause has ended
``paused``           worker ``by`` has answered that it obeys the pause of ``version``
Control
``asked``            client ``by`` asks ``request`` (``state`` names the command) of ``targets`` (``None``: everyone),
                     with ``value`` seconds; it expires at ``until`` on the same clock
``obeyed``           worker ``by`` carried ``request`` out
``heard``            the client counted an answer of worker ``target`` to ``request``
``answered``         ``request`` is over: ``targets`` are the workers that were expected and stayed silent
``left``             ``value`` names queues, keys or channels of ``target`` that are still there
``fed``              worker ``target`` was sent what no worker can read
``complained``       worker ``by`` logged the complaint ``value``
``unpickled``        something from a broker or a store was executed
Processes and faults
``up``               worker ``by`` was started (``value`` is ``unsynced`` where it may run without having read the store)
``ready``            worker ``by`` consumes
``busy``             every slot of worker ``by`` is taken, or it drains (until ``idle``)
``idle``             it isn't any more
``stopping``         worker ``by`` was told to stop
``down``             worker ``by`` is no more; ``value`` is ``crashed`` where nobody killed or stopped it
``fault``            ``value`` befalls ``target``: a worker or client, ``broker``, ``store``, ``backend``, one's link to one
                     of them (``broker/alpha``), or the ``machine`` and so everybody; until ``healed``
``healed``           it is over
``quiet``            all faults are healed, and nothing waits or runs any more
===================  ==================================================================================================

A worker that is started again under its name is somebody else: ``by`` names the incarnation (``alpha#2``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WORLD = "world"

KINDS = frozenset(
    {
        *(
            "enqueued",
            "pause-stored",
            "resume-stored",
            "paused",
            "started",
            "checkpoint",
            "stopped",
            "swallowed",
            "cleaned",
            "ended",
            "child-killed",
            "signalled",
            "dead",
            "lost",
            "pool",
        ),
        *("recorded", "verdict", "acknowledged"),
        *("stored", "store-failed", "broadcast", "applied", "undone", "lifted", "refused", "pruned", "read", "cached"),
        *("rule-stored", "rule-applied"),
        *("asked", "obeyed", "heard", "answered", "left", "fed", "complained", "unpickled"),
        *("up", "ready", "busy", "idle", "stopping", "down", "fault", "healed", "quiet"),
    }
)


class Event:
    """One thing that happened. ``seq`` is its place in the history, given by :meth:`History.add`."""

    __slots__ = (
        "at",
        "attempt",
        "began",
        "by",
        "clock",
        "kind",
        "request",
        "run",
        "seq",
        "state",
        "target",
        "targets",
        "task",
        "terminate",
        "until",
        "value",
        "version",
    )

    def __init__(
        self,
        kind: str,
        at: float,
        by: str = "",
        *,
        clock: str = WORLD,
        began: float | None = None,
        task: str | None = None,
        attempt: int = 1,
        run: str | None = None,
        version: int | None = None,
        terminate: bool = False,
        until: float | None = None,
        request: str | None = None,
        state: str | None = None,
        target: str | None = None,
        targets: Sequence[str] | None = None,
        value: Any = None,
    ) -> None:
        self.seq = -1
        self.kind = kind
        self.at = at
        self.by = by
        self.clock = clock
        self.began = at if began is None else began
        self.task = task
        self.attempt = attempt
        self.run = run
        self.version = version
        self.terminate = terminate
        self.until = until
        self.request = request
        self.state = state
        self.target = target
        self.targets = targets
        self.value = value

    def __repr__(self) -> str:
        facts = " ".join(f"{name}={value!r}" for name, value in self.to_dict().items() if name not in _ALWAYS)
        clock = "" if self.clock == WORLD else f" {self.clock}"
        return f"[{self.at:.3f}{clock}] {self.by} {self.kind} {facts}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """What is set, by name: the JSON form."""
        return {
            name: value
            for name in _FIELDS
            if (value := getattr(self, name)) != _DEFAULTS[name] and not (name == "began" and value == self.at)
        }

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Event:
        return cls(**facts)


_ALWAYS = ("kind", "at", "by", "clock")
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(set(Event.__slots__) - {"seq"}),
    "by": "",
    "clock": WORLD,
    "attempt": 1,
    "terminate": False,
}
_FIELDS = (*_ALWAYS, *sorted(set(_DEFAULTS) - set(_ALWAYS)))


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a run was configured with and how exactly it was observed. Spans are seconds; ``None`` is not judged.

    ``clocks`` gives, for each clock that may be compared with others, by how much it is ahead of true time at least and
    at most: ``{"alpha": (-0.1, 0.1)}``. ``start_slack`` lies at most between the moment at which a worker decides that
    a task may start and its first statement; ``stop_slack`` between a terminate's arrival and the next checkpoint that
    must raise; ``answer_slack`` between a deadline and the moment at which the client is seen to have ended;
    ``recovery`` between the end of a fault and the moment at which it has no effect any more.
    """

    clocks: Mapping[str, tuple[float, float]] = field(default_factory=lambda: {WORLD: (0.0, 0.0)})
    sync_interval: float = 10.0
    start_slack: float = 0.0
    stop_slack: float | None = 0.0
    answer_slack: float | None = 0.0
    recovery: float = 0.0
    child_loss: float | None = 1.0
    litter: float | None = 600.0
    prune_within: float | None = 600.0
    complaint_interval: float | None = 60.0

    @property
    def freshness(self) -> float:
        """Seconds after which every worker knows of a revoke: it looks before a start once 1.5 intervals have passed."""
        return 1.5 * self.sync_interval


class History:
    """Events in the order in which they were noted, which for those of one clock is the order of their times."""

    __slots__ = ("bounds", "events")

    def __init__(self, events: Iterable[Event] = (), bounds: Bounds | None = None) -> None:
        self.bounds = Bounds() if bounds is None else bounds
        self.events: list[Event] = []
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        event.seq = len(self.events)
        self.events.append(event)

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    # -- time -----------------------------------------------------------------------------------------------------------

    def apart(self, first: Event, second: Event) -> float:
        """How many seconds surely lie between two events; less than nothing where ``second`` may have been first."""
        return self.between(first.at, first.clock, second.at, second.clock)

    def between(self, first: float, first_clock: str, second: float, second_clock: str) -> float:
        """The same for two times."""
        if first_clock == second_clock:
            return second - first
        ahead, behind = self.bounds.clocks.get(first_clock), self.bounds.clocks.get(second_clock)
        if ahead is None or behind is None:
            return float("-inf")
        return (second - behind[1]) - (first - ahead[0])

    def before(self, first: Event, second: Event) -> bool:
        """Whether ``first`` surely came before ``second``."""
        if first.clock == second.clock:
            return first.at < second.at or (first.at == second.at and first.seq < second.seq)
        return self.apart(first, second) > 0

    # -- kept -----------------------------------------------------------------------------------------------------------

    @classmethod
    def merged(cls, logs: Iterable[Iterable[Event]], bounds: Bounds | None = None) -> History:
        """One history of several observers' logs, by time; logs of clocks without bounds keep their own order."""
        clocks = (Bounds() if bounds is None else bounds).clocks
        middle = {name: (least + most) / 2 for name, (least, most) in clocks.items()}
        everything = [event for log in logs for event in log]
        return cls(sorted(everything, key=lambda event: event.at - middle.get(event.clock, 0.0)), bounds)

    def lines(self) -> Iterator[str]:
        """The history as lines of JSON, which :meth:`parsed` reads."""
        for event in self.events:
            yield json.dumps(event.to_dict(), default=sorted)

    @classmethod
    def parsed(cls, lines: Iterable[str], bounds: Bounds | None = None) -> History:
        return cls((Event.from_dict(json.loads(line)) for line in lines if line.strip()), bounds)
