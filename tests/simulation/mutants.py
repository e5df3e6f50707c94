"""Mistakes that somebody could make in the product; the simulation must find each.

A mutant replaces methods by ones that decide wrongly, as a careless change would. ``promises`` are those that the checker may
name: the mistake breaks each of them, and one becomes evident first. :data:`TROUBLE` stands for a fleet that does not come
to rest, because a message stays behind for good. Where production looks twice, the mutant drops both looks: with one of
them the promise is still kept.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from stem_kombu import machine, timeouts
from stem_kombu import rule as rule_module
from stem_kombu.agent import active_rules, hydration, leases, record_sync
from stem_kombu.control import undo
from stem_kombu.control.client import client, places, verdict_wait
from stem_kombu.control.client import command_request as question
from stem_kombu.control.client import reply_collector as collector
from stem_kombu.control.client import roster as lookout
from stem_kombu.control.client.verdicts import Verdict
from stem_kombu.control.protocol.messages import Command, Reply, Revoke
from stem_kombu.control.server import dispatch, subscription
from stem_kombu.control.server import replay_guard as guard
from stem_kombu.errors import StoreUnavailable
from stem_kombu.execution import executors as router
from stem_kombu.execution import groups
from stem_kombu.execution.base import Stop
from stem_kombu.execution.frames import StopJob
from stem_kombu.execution.pool import child_handle, climb, pool, scheduler
from stem_kombu.ladder import Ladder
from stem_kombu.outcome import Ending, Outcome, TaskState
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.revocation_cache import Applied, RevocationCache
from stem_kombu.selector import Selector
from stem_kombu.stores import batch, records
from stem_kombu.undone import Undone, is_undo
from stem_kombu.worker import (
    admission,
    delivery_facts,
    directive_service,
    limit_service,
    recorder,
    retry_publisher,
    set_aside,
    transitions,
)
from stem_kombu.worker import deliveries as inflight
from stem_kombu.worker import task_history as history
from stem_kombu.worker import task_lifecycle as lifecycle
from stem_kombu.worker import worker as stem_worker
from stem_kombu.worker.deliveries import Delivery
from stem_kombu.worker.delivery_events import Action, Do, Event, Facts
from stem_kombu.worker.phase import Phase
from stem_kombu.worker.settlement import MessageDisposition, Settlement

TROUBLE = "trouble"
#: ``(owner, name, make)``: ``owner.name`` becomes ``make(what it was)``.
Patch = tuple[Any, str, Callable[[Any], Any]]


@dataclass
class Mutant:
    """``theme`` is what schedules are about that show it soonest, ``seed`` one that did: where to begin to look."""

    promises: tuple[str, ...]
    patches: tuple[Patch, ...]
    theme: str = ""
    seed: int = 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The product with the mistake in it."""
        held = [(owner, name, vars(owner)[name]) for owner, name, _ in self.patches]
        self.apply()
        try:
            yield
        finally:
            for owner, name, value in held:
                setattr(owner, name, value)

    def apply(self) -> None:
        for owner, name, make in self.patches:
            setattr(owner, name, make(getattr(owner, name)))


def always(value: Any) -> Callable[[Any], Any]:
    """Whatever is asked, the answer is this."""
    return lambda original: lambda *_, **__: value


# -- revocations ----------------------------------------------------------------------------------------------------------


def broadcast_first(original: Any) -> Any:
    def revoke(self: Any, task_ids: Sequence[str], **options: Any) -> Any:
        store, now = self.places.revoke_store(), self._clock.utcnow()
        drafts = [RevocationDraft(task_id, options.get("terminate", False)) for task_id in task_ids]
        guessed = [
            Revocation(self.settings.namespace, draft.task_id, store.highest + 1 + place, now, draft.terminate)
            for place, draft in enumerate(drafts)
        ]
        self._sender.ask([Revoke(tuple(guessed), 0.0)], None, 1.0)
        return original(self, task_ids, **options)

    return revoke


def cursor_by_broadcast(original: Any) -> Any:
    def apply(self: lifecycle.TaskLifecycle, revocations: Sequence[Revocation]) -> Applied:
        done: Applied = original(self, revocations)
        for revocation in revocations:
            self.facts.cache.advance(revocation.version)
        return done

    return apply


def read_once(original: Any) -> Any:
    def sync(self: hydration.Hydration) -> bool:
        if not self._loaded:
            return bool(original(self))
        self._synced_mono = self._clock.monotonic()
        return True

    return sync


def start_unread(original: Any) -> Any:
    def start(self: hydration.Hydration, *, timeout: float, allow_unsynced: bool = False) -> None:
        self._synced_mono = self._clock.monotonic()
        self._background.start()

    return start


def revision_last(original: Any) -> Any:
    """What commits between the two reads is passed over for good."""

    def sync(self: hydration.Hydration) -> bool:
        if not self._loaded:
            with self._sync_lock:
                try:
                    self._keep_house(self._clock.monotonic())
                    self._take(self._store.load(self._namespace), advance=False)
                    self._cache.advance(self._store.revision(self._namespace))
                    self._loaded = True
                except StoreUnavailable as error:
                    self._failed(error)
                    return False
        return bool(original(self))

    return sync


def forget_terminate(original: Any) -> Any:
    def merge(held: Any, draft: RevocationDraft, **facts: Any) -> Revocation:
        return replace(original(held, draft, **facts), terminate=draft.terminate)

    return merge


def older_wins(original: Any) -> Any:
    """The cache keeps what it has."""

    def apply(self: RevocationCache, records: Any, now: Any) -> Applied:
        done: Applied = original(
            self, [record for record in records if record.task_id not in self.known([record.task_id])], now
        )
        return done

    return apply


def cache_only(original: Any) -> Any:
    return lambda self, revocations: self.facts.cache.apply(revocations, self.facts.cache.now())


def retry_revoked(original: Any) -> Any:
    def settle(*arguments: Any, **facts: Any) -> Settlement:
        settled: Settlement = original(*arguments, **{**facts, "revocation": None})
        return settled

    return settle


# -- undos ----------------------------------------------------------------------------------------------------------------


def take_back_anything(original: Any) -> Any:
    def compare(place: str, key: str, replaces: int, held: int) -> None:
        original(place, key, held if place == records.REVOCATION else replaces, held)

    return compare


def ends_are_final(original: Any) -> Any:
    return lambda self, record: record.task_id in self._ends


def passes_over_ends(original: Any) -> Any:
    """What has ended is not read from the store: it revokes nothing."""

    def take(self: hydration.Hydration, found: Any, *, advance: bool = True) -> None:
        found = list(found)
        original(self, [one for one in found if not is_undo(one)], advance=advance)
        if advance and found:
            self._cache.advance(found[-1].version)

    return take


def only_what_is_revoked_is_over(original: Any) -> Any:
    return lambda message, record: record.state is not TaskState.CANCELLED and original(message, record)


# -- rules ---------------------------------------------------------------------------------------------------------------


def without_cut_off(original: Any) -> Any:
    return lambda self, task: self.selector.matches(task)


def cut_off_when_learnt(original: Any) -> Any:
    def take(self: active_rules.ActiveRules, rules: Any) -> bool:
        return bool(original(self, [replace(rule, enqueued_before=self._now()) for rule in rules]))

    return take


def found_without_cut_off(original: Any) -> Any:
    return lambda order, view: original(replace(order, before=order.before + timedelta(days=1)), view)


def by_id_alone(original: Any) -> Any:
    return lambda self, message: self.cache.get(message.task_id)


# -- stopping -------------------------------------------------------------------------------------------------------------


def stop_whatever_runs(original: Any) -> Any:
    def stop_job(
        self: pool.IsolatePool, token: int, why: Stop, revocation: Revocation | None = None, ladder: Any = None
    ) -> bool:
        with self._lock:
            busy = [child for child in self._children.values() if child.job is not None]
            child = self._children.running(token) or (busy[0] if busy else None)
            if child is None or child.job is None:
                return False
            child.send(StopJob(child.job.token, why, revocation))
        return True

    return stop_job


def counted_from_the_revoke(original: Any) -> Any:
    def arm(self: child_handle.ChildHandle, revocation: Revocation, ladder: Ladder) -> None:
        original(self, revocation, ladder)
        if (climb := self.climb) is not None:
            late = (self._clock.utcnow() - revocation.issued_at).total_seconds()
            climb.term_at, climb.kill_at = climb.term_at - late, climb.kill_at - late

    return arm


def kill_first(original: Any) -> Any:
    def add(self: climb.Climb, revocation: Revocation, ladder: Ladder, now: float) -> None:
        original(self, revocation, ladder, now)
        self.kill_at = min(self.kill_at, self.term_at)

    return add


def climb_on(original: Any) -> Any:
    """The ladder of a child, not of what it runs."""

    def accept(self: child_handle.ChildHandle, frame: object) -> None:
        climbs = self.climb
        original(self, frame)
        self.climb = climbs

    return accept


def hit_what_runs(original: Any) -> Any:
    def take_step(self: child_handle.ChildHandle, now: float) -> None:
        if self.climb is not None and self.job is not None:
            self.climb.token = self.job.token
        original(self, now)

    return take_step


def arm_the_first(original: Any) -> Any:
    """Whatever it runs."""

    def stop_job(
        self: pool.IsolatePool, token: int, why: Stop, revocation: Revocation | None = None, ladder: Any = None
    ) -> bool:
        with self._lock:
            busy = [child for child in self._children.values() if child.job is not None]
            if busy and revocation is not None and ladder is not None:
                busy[0].arm(revocation, ladder)
        return bool(original(self, token, why, revocation))

    return stop_job


def whole_group(original: Any) -> Any:
    """Whichever process leads it: the worker, where a child leads none."""
    return lambda pid: machine.killpg(machine.getpgid(pid), signal.SIGTERM)


def term_is_the_end(original: Any) -> Any:
    def climb_now(self: pool.IsolatePool, now: float) -> None:
        original(self, now)
        for child in list(self._children.values()):
            if child.job is not None and child.climb is not None and child.climb.steps and child.verdict is None:
                self._observer.ended(child.job, child.climb.killed())

    return climb_now


def requested_is_stopped(original: Any) -> Any:
    def decide(known: verdict_wait.Known) -> Any:
        if any(one.fate.stop_requested_ago is not None for one in known.reachable):
            return Verdict.STOPPED
        return original(known)

    return decide


def released_is(kind: Ending | MessageDisposition) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        def settle(message: Any, options: Any, outcome: Outcome, **facts: Any) -> Settlement:
            if outcome.kind is not Ending.RELEASED:
                settled: Settlement = original(message, options, outcome, **facts)
                return settled
            if isinstance(kind, MessageDisposition):
                return Settlement(None, kind)
            wrong: Settlement = original(message, options, replace(outcome, kind=kind), **facts)
            return wrong

        return settle

    return make


def acknowledge_first(original: Any) -> Any:
    def settle(self: recorder.Recorder, delivery: Delivery, settled: Settlement) -> None:
        self.acks.add(delivery, settled.then)
        original(self, delivery, replace(settled, then=MessageDisposition.LEAVE))

    return settle


def publish_last(original: Any) -> Any:
    """The next attempt is published when this one is recorded and acknowledged."""

    def put(self: retry_publisher.RetryPublisher, entry: Any) -> None:
        settled = entry.settlement
        self._done(set_aside.Entry(entry.delivery, replace(settled, retry=None)))
        original(self, set_aside.Entry(entry.delivery, replace(settled, record=None, then=MessageDisposition.LEAVE)))

    return put


def never_doubts(original: Any) -> Any:
    """A subscription counts as good for ever once a message has come."""

    def trust(self: subscription.ControlSubscription) -> None:
        original(self)
        self._doubt_at = float("inf")

    return trust


# -- control --------------------------------------------------------------------------------------------------------------


def obey_again(original: Any) -> Any:
    def judge(self: guard.ReplayGuard, command: Command) -> guard.Verdict:
        verdict: guard.Verdict = original(self, command)
        return guard.Verdict.OBEY if verdict is guard.Verdict.KNOWN else verdict

    return judge


def own_clock(original: Any) -> Any:
    def time_left(self: guard.ReplayGuard, command: Command) -> float:
        return command.expires_at.timestamp() + timeouts.COMMAND_CLOCK_TOLERANCE - self._clock.now()

    return time_left


def untargeted(original: Any) -> Any:
    return lambda self, command: original(self, replace(command, targets=None))


def count_again(original: Any) -> Any:
    def hear(self: collector.ReplyCollector, reply: Reply, at: float) -> bool:
        if reply.request_id == self.request_id:
            self._replies.get(reply.worker, {}).pop(reply.part, None)
        return bool(original(self, reply, at))

    return hear


def first_is_whole(original: Any) -> Any:
    return property(lambda self: bool(self._replies))


def wait_on(original: Any) -> Any:
    return lambda self, within, notes: original(self, within + 60.0, notes)


def store_at_leisure(original: Any) -> Any:
    return lambda self, function, within, *where, **how: original(self, function, within + 60.0, *where, **how)


# -- work -----------------------------------------------------------------------------------------------------------------


def reap_quietly(original: Any) -> Any:
    def reap(self: pool.IsolatePool, dead: Any) -> list[Any]:
        original(self, dead)
        return []

    return reap


def adopt_the_first(original: Any) -> Any:
    def same_attempt(self: inflight.InFlight, message: Any, generation: int, *, leased: bool) -> Delivery | None:
        same = self._by_id.get(message.task_id, ())
        return next((d for d in same if d.message.attempt == message.attempt and not d.lease_lost), None)

    return same_attempt


# -- the table of transitions -----------------------------------------------------------------------------------------------


Rule = Callable[[Facts], Action]
ACKNOWLEDGED = Action(Do.SETTLE, Settlement(None, MessageDisposition.ACKNOWLEDGE))


def in_table(cell: tuple[Event, Phase], change: Callable[[Rule], Rule]) -> Patch:
    """The rule of one cell, changed."""
    event, phase = cell

    def changed(rows: Any) -> Any:
        rows = [list(row) for row in rows]
        rows[event.place][phase.place] = change(rows[event.place][phase.place])
        return rows

    return transitions, "_ROWS", changed


def blind(**facts: Any) -> Callable[[Rule], Rule]:
    """The rule does not see these facts."""
    return lambda rule: lambda known: rule(known._replace(**facts))


def without_retry(rule: Rule) -> Rule:
    """No next attempt follows."""

    def changed(facts: Facts) -> Action:
        action = rule(facts)
        return action._replace(settlement=action.settlement and replace(action.settlement, retry=None))

    return changed


def says(action: Action) -> Callable[[Rule], Rule]:
    """The rule says always the same."""
    return lambda rule: lambda known: action


MUTANTS: dict[str, Mutant] = {
    "nobody looks for a pause before a start": Mutant(
        ("G22",),
        (
            in_table((Event.DECODED, Phase.ARRIVED), blind(is_paused=False)),
            in_table((Event.SLOT_FREE, Phase.RESERVED), blind(is_paused=False)),
            in_table((Event.DUE, Phase.HELD), blind(is_paused=False)),
        ),
        "pauses",
    ),
    "paused while it waited": Mutant(
        ("G22",),
        (
            in_table((Event.PAUSED, Phase.RESERVED), says(transitions.IGNORE)),
            in_table((Event.SLOT_FREE, Phase.RESERVED), blind(is_paused=False)),
            # Else the answer says that it is about to start.
            (directive_service.DirectiveService, "_starting", always(frozenset())),
        ),
        "pauses",
    ),
    "directives are not read from the store": Mutant(
        ("G22",), ((record_sync.RecordSync, "look", always(None)),), "pauses"
    ),
    "a shutdown is obeyed by the worker that starts next": Mutant(
        ("G33",), ((guard.ReplayGuard, "_is_of_another_time", always(False)),), "shutdowns", seed=28
    ),
    "what waits for a rate limit never goes on": Mutant(
        (TROUBLE,), ((limit_service.LimitService, "_go_on", always(None)),), "limits"
    ),
    "broadcast before store": Mutant(("G1",), ((client.ControlClient, "revoke", broadcast_first),)),
    "cursor moved by broadcasts": Mutant(
        ("G2",), ((lifecycle.TaskLifecycle, "apply", cursor_by_broadcast),), "targets", seed=2562
    ),
    "store read once": Mutant(("G2",), ((hydration.Hydration, "sync", read_once),), "targets", seed=46),
    "revision taken after the rows": Mutant(
        ("G2",), ((hydration.Hydration, "sync", revision_last),), "starts", seed=29
    ),
    "work before the store is read": Mutant(("G2",), ((hydration.Hydration, "start", start_unread),), seed=15),
    "nobody looks before a start": Mutant(
        ("G2", "G3"),
        (
            in_table((Event.DECODED, Phase.ARRIVED), blind(revocation=None)),
            in_table((Event.SLOT_FREE, Phase.RESERVED), blind(revocation=None)),
        ),
        seed=13,
    ),
    "revoked while it waited for a slot": Mutant(
        ("G2", "G3"),
        (
            (router.Executors, "withdraw", always(False)),
            in_table((Event.SLOT_FREE, Phase.RESERVED), blind(revocation=None)),
        ),
        seed=314,
    ),
    "running tasks are not told": Mutant(("G7",), ((lifecycle.TaskLifecycle, "apply", cache_only),), seed=25),
    "revoked tasks are tried again": Mutant(("G9",), ((transitions, "settle", retry_revoked),), "races", seed=115),
    "terminate taken back by the store": Mutant(("G4",), ((batch, "merge", forget_terminate),)),
    "versions by the second": Mutant(
        ("G1", "G2", "G4"), ((batch, "next_version", lambda _: lambda highest, now: int(now.timestamp())),)
    ),
    "an older record wins": Mutant(("G2", "G4", "G7", "G3"), ((RevocationCache, "apply", older_wins),), "expiries"),
    "expiry forgotten": Mutant(("G4",), ((RevocationCache, "_now_us", always(0)),), "expiries"),
    "expiry judged by the worker's clock": Mutant(
        ("G2", "G3", "G4", "G7"), ((RevocationCache, "set_store_time", always(None)),), "expiries"
    ),
    "terminate without attempt token": Mutant(
        ("G8",), ((pool.IsolatePool, "stop_job", stop_whatever_runs),), "mixed", seed=258
    ),
    "shutdown cancels": Mutant(
        ("G9", "G18", "G20"), ((transitions, "settle", released_is(Ending.CANCELLED)),), seed=180
    ),
    "released tasks are acknowledged": Mutant(
        ("G9", "G18"), ((transitions, "settle", released_is(MessageDisposition.ACKNOWLEDGE)),), seed=180
    ),
    "acknowledge before record": Mutant(("G9", "G18"), ((recorder.Recorder, "settle", acknowledge_first),)),
    "acknowledge before the retry is published": Mutant(
        ("G18",), ((retry_publisher.RetryPublisher, "put", publish_last),), "kills", seed=175
    ),
    "endings are not looked up": Mutant(
        ("G3", "G19"),
        # Both looks: the one right before the start finds nearly all that the one on arrival misses.
        ((admission, "is_over", always(False)), (history.TaskHistory, "is_stale", always(False))),
        "repeats",
    ),
    "endings are looked up once": Mutant(
        ("G19",), ((history.TaskHistory, "is_stale", always(False)),), "repeats", seed=812
    ),
    "command carried out twice": Mutant(("G14",), ((guard.ReplayGuard, "judge", obey_again),)),
    "stale command obeyed": Mutant(("G14",), ((guard.ReplayGuard, "time_left", always(60.0)),), "suspensions"),
    "command judged by the worker's clock": Mutant(
        ("G12", "G14", "G16"), ((guard.ReplayGuard, "time_left", own_clock),), "expiries"
    ),
    "target ignored": Mutant(("G12",), ((guard.ReplayGuard, "judge", untargeted),), "targets", seed=29),
    "answer counted twice": Mutant(("G12",), ((collector.ReplyCollector, "hear", count_again),), seed=37),
    "the first answer is enough": Mutant(
        ("G12", "G13", "G16"), ((collector.ReplyCollector, "is_whole", first_is_whole),), "targets"
    ),
    "a lost subscription is not looked for": Mutant(
        (TROUBLE,), ((subscription.ControlSubscription, "_trust", never_doubts),)
    ),
    "nobody is reminded": Mutant(("G12", "G16"), ((question.CommandRequest, "remind", always(None)),)),
    "the store is waited for": Mutant(("G13",), ((places.ClientPlaces, "in_time", store_at_leisure),), seed=1927),
    "the roster is waited for": Mutant(("G13",), ((lookout.RosterReader, "view", wait_on),), "rosters", seed=0),
    "leases are not renewed": Mutant(("G19",), ((leases.Leases, "_renew_all", always(None)),), seed=668),
    "a child's death is not told": Mutant(("G18", TROUBLE), ((pool.IsolatePool, "_reap", reap_quietly),), "children"),
    "what was handed to a dead child goes with it": Mutant(
        ("G18", TROUBLE), ((scheduler.JobScheduler, "retry_on_another_child", always(True)),), "ahead", seed=397
    ),
    "held tasks are acknowledged at a stop": Mutant(
        ("G9", "G18"), (in_table((Event.STOP_REQUESTED, Phase.HELD), says(ACKNOWLEDGED)),), "etas"
    ),
    "a lost connection's holds are kept": Mutant(
        ("G18", "G19", TROUBLE),
        (
            (lifecycle.TaskLifecycle, "connection_lost", always(None)),
            in_table((Event.SLOT_FREE, Phase.RESERVED), blind(is_ours=True)),
        ),
        "etas",
    ),
    "a lost connection's holds are left late": Mutant(
        ("G18", "G19", TROUBLE),
        (
            in_table((Event.CONNECTION_LOST, Phase.HELD), says(transitions.LEAVE)),
            in_table((Event.CONNECTION_LOST, Phase.SETTLING), says(transitions.IGNORE)),
            in_table((Event.ATTEMPTED, Phase.SETTLING), says(transitions.PROCEED)),
        ),
        "holds",
        seed=24,
    ),
    "two messages take one place": Mutant(
        ("G18", TROUBLE), ((inflight.InFlight, "same_attempt", adopt_the_first),), seed=609
    ),
    "a revoked task that is held starts": Mutant(
        ("G2", "G3"),
        (
            in_table((Event.REVOKED, Phase.HELD), says(transitions.IGNORE)),
            in_table((Event.DUE, Phase.HELD), blind(revocation=None)),
            in_table((Event.SLOT_FREE, Phase.RESERVED), blind(revocation=None)),
        ),
        "etas",
    ),
    "a terminate does not stop what runs": Mutant(
        ("G7",), (in_table((Event.REVOKED, Phase.RUNNING), says(transitions.IGNORE)),)
    ),
    "what is recorded runs again": Mutant(
        ("G3", "G9", "G18", "G19", TROUBLE),
        (in_table((Event.RECORDED_BEFORE, Phase.ARRIVED), says(transitions.GIVE_BACK)),),
        "kills",
    ),
    "a failure is acknowledged without its next attempt": Mutant(
        ("G9", "G18"), (in_table((Event.ENDED, Phase.RUNNING), without_retry),)
    ),
    "what can not be recorded is acknowledged": Mutant(
        ("G9", "G18"), (in_table((Event.ATTEMPTED, Phase.SETTLING), says(ACKNOWLEDGED)),)
    ),
    "tags of a lost connection are used": Mutant(
        ("G9", "G18", "G19", TROUBLE),
        (in_table((Event.SETTLED, Phase.SETTLING), blind(is_tag_valid=True)),),
        seed=171,
    ),
    "what is recorded goes back": Mutant(
        ("G18", "G19", TROUBLE),
        (in_table((Event.SETTLED, Phase.SETTLING), blind(disposition=MessageDisposition.REQUEUE)),),
    ),
    "what is due is neither run nor given back": Mutant(
        (TROUBLE,), (in_table((Event.DUE, Phase.HELD), says(transitions.LEAVE)),), "etas"
    ),
    "what waits for a slot stays with a lost connection": Mutant(
        ("G18", "G19", TROUBLE),
        (
            in_table((Event.CONNECTION_LOST, Phase.RESERVED), says(transitions.IGNORE)),
            in_table((Event.SLOT_FREE, Phase.RESERVED), blind(is_ours=True)),
        ),
        "resets",
        seed=11,
    ),
    "a refusal is recorded though another worker has the message": Mutant(
        ("G9", "G10"),
        (
            in_table((Event.CONNECTION_LOST, Phase.SETTLING), says(transitions.IGNORE)),
            in_table((Event.ATTEMPTED, Phase.SETTLING), says(transitions.PROCEED)),
        ),
        "refusals",
        seed=2884,
    ),
    "what was undone is revoked again by an older message": Mutant(
        ("G31",), ((Undone, "covers", always(False)),), "undos", seed=117
    ),
    "undos are not read from the store": Mutant(
        ("G31",), ((hydration.Hydration, "_take", passes_over_ends), (undo, "lifted", always([]))), "undos", seed=244
    ),
    "an undo takes back what was revoked meanwhile": Mutant(
        ("G31",), ((records, "_compare", take_back_anything),), "undos"
    ),
    "what was undone can't be revoked again": Mutant(
        ("G2", "G3"), ((Undone, "covers", ends_are_final),), "undos", seed=227
    ),
    "an undo revives what is recorded": Mutant(
        ("G31",),
        (
            (admission, "is_over", only_what_is_revoked_is_over),
            (history, "is_over", only_what_is_revoked_is_over),
        ),
        "revivals",
        seed=55,
    ),
    "a rule has no cut-off": Mutant(("G29",), ((rule_module.Rule, "strikes", without_cut_off),), "rules"),
    "a rule's cut-off is when a worker learns of it": Mutant(
        ("G29",), ((active_rules.ActiveRules, "take", cut_off_when_learnt),), "rules"
    ),
    "a rule strikes whatever its selector says": Mutant(("G29",), ((Selector, "matches", always(True)),), "rules"),
    "what is found for a rule was sent at any time": Mutant(
        ("G29",), ((dispatch, "select", found_without_cut_off),), "rules"
    ),
    "rules are not read from the store": Mutant(("G2",), ((stem_worker, "rule_subscribers", always({})),), "rules"),
    "rules are not asked before a start": Mutant(
        ("G2", "G3"), ((delivery_facts.DeliveryFacts, "revocation_of", by_id_alone),), "rules"
    ),
    "a ladder's time runs from the revoke": Mutant(
        ("G27",), ((child_handle.ChildHandle, "arm", counted_from_the_revoke),), "ladders"
    ),
    "SIGKILL comes in place of SIGTERM": Mutant(("G27",), ((climb.Climb, "add", kill_first),), "ladders"),
    "a child's next task climbs on": Mutant(
        ("G27",),
        (
            (child_handle.ChildHandle, "accept", climb_on),
            (child_handle.ChildHandle, "take_step", hit_what_runs),
        ),
        "ladders",
    ),
    "a ladder without attempt token": Mutant(("G27",), ((pool.IsolatePool, "stop_job", arm_the_first),), "ladders"),
    "a signal goes to whatever group a child is in": Mutant(("G27",), ((groups, "terminate", whole_group),), "ladders"),
    "a ladder is not climbed": Mutant(("G27",), ((delivery_facts.DeliveryFacts, "_ladder", always(None)),), "ladders"),
    "what gets SIGTERM is recorded as cancelled": Mutant(
        ("G26",), ((pool.IsolatePool, "_climb", term_is_the_end),), "ladders"
    ),
    "what is asked to stop is recorded as cancelled": Mutant(
        ("G26",), (in_table((Event.REVOKED, Phase.RUNNING), lambda rule: transitions._revoked),), "ladders"
    ),
    "what is asked to stop counts as stopped": Mutant(
        ("G26",), ((verdict_wait, "decide", requested_is_stopped),), "ladders"
    ),
    "an impossible pair": Mutant((TROUBLE,), (in_table((Event.ENDED, Phase.RUNNING), says(transitions.FAULT)),)),
}
