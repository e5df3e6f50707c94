"""The table of what becomes of a delivery: each pair, and what holds for every path through it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stem_kombu.errors import ConfigurationError, StoreError
from stem_kombu.execution.base import Stop
from stem_kombu.ladder import Ladder
from stem_kombu.outcome import EndedBy, EndedHow, Ending, LadderStep, Outcome, TaskError, TaskRecord, TaskState
from stem_kombu.revocation import Revocation
from stem_kombu.task import CeleryOrigin, TaskMessage, TaskOptions
from stem_kombu.worker.delivery_events import Action, Do, Event, Facts
from stem_kombu.worker.phase import Phase
from stem_kombu.worker.settlement import MessageDisposition, Settlement, refused
from stem_kombu.worker.transitions import TABLE, decide

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
MESSAGE = TaskMessage("t1", "tasks.render", queue="default", enqueued_at=NOW)
RECORD = TaskRecord("t1", "tasks.render", TaskState.SUCCEEDED)
ERROR = TaskError("ValueError", "no")
REVOKED = Revocation("stem", "t1", 7, NOW, requested_by="ada@ops")
TERMINATED = replace(REVOKED, terminate=True)
#: Facts that fit each event, with nothing the matter.
PLAIN = Facts(
    message=MESSAGE,
    now=NOW,
    worker="alpha",
    recorded=None,
    aside=MESSAGE,
    error=ERROR,
    outcome=Outcome(Ending.SUCCEEDED),
    options=TaskOptions(),
    settlement=Settlement(RECORD, MessageDisposition.ACKNOWLEDGE),
    why=ValueError("no"),
    disposition=MessageDisposition.ACKNOWLEDGE,
)

#: What is done with nothing the matter; where the phase says so, the task is revoked with terminate, or has its record.
EXPECTED = """
                   arrived  held     deferred  reserved  running  stopping  settling     done
untrusted          reject   fault    fault     fault     fault    fault     fault        ignore
unreadable         refuse   fault    fault     fault     fault    fault     fault        ignore
foreign            settle   fault    fault     fault     fault    fault     fault        ignore
redelivered        proceed  fault    fault     fault     fault    fault     fault        ignore
recorded_before    settle   fault    fault     fault     fault    fault     fault        ignore
decoded            submit   fault    fault     fault     fault    fault     fault        ignore
due                fault    submit   settle    fault     fault    fault     ignore       ignore
held_longest       fault    settle   fault     fault     fault    fault     ignore       ignore
no_slot            fault    fault    fault     defer     fault    fault     ignore       ignore
slot_free          fault    fault    submit    proceed   fault    fault     withhold     withhold
started            fault    fault    fault     proceed   fault    fault     ignore       ignore
ended              fault    fault    fault     refuse    settle   settle    ignore       ignore
revoked            ignore   refuse   refuse    withdraw  stop     stop      ignore       ignore
paused             ignore   settle   settle    withdraw  ignore   ignore    ignore       ignore
lease_lost         remove   settle   settle    withdraw  stop     stop      ignore       ignore
connection_lost    remove   remove   remove    withdraw  ignore   ignore    remove       ignore
stop_requested     settle   settle   settle    withdraw  ignore   ignore    ignore       ignore
release_requested  settle   settle   settle    withdraw  stop     stop      ignore       ignore
attempted          fault    fault    fault     fault     fault    fault     proceed      settle
refused            fault    fault    fault     fault     fault    fault     wait         settle
unsendable         fault    fault    fault     fault     fault    fault     settle       settle
not_storable       fault    fault    fault     fault     fault    fault     settle       settle
given_up           fault    fault    fault     fault     fault    fault     settle       settle
recorded           fault    fault    fault     fault     fault    fault     finish       ignore
followed_ended     fault    fault    fault     fault     fault    fault     finish       ignore
settled            fault    fault    fault     fault     fault    fault     acknowledge  ignore
"""
_HEAD, *_LINES = EXPECTED.strip("\n").split("\n")
ROWS = {line.split()[0]: dict(zip(_HEAD.split(), line.split()[1:], strict=True)) for line in _LINES}
PAIRS = [(phase, event) for event in Event for phase in Phase]


@pytest.mark.parametrize(("phase", "event"), PAIRS)
def test_each_event_has_its_answer_in_each_phase(phase: Phase, event: Event) -> None:
    facts = PLAIN._replace(has_started=phase in (Phase.RUNNING, Phase.STOPPING))
    if event is Event.REVOKED:
        facts = facts._replace(revocation=TERMINATED)
    if event is Event.RECORDED_BEFORE:
        facts = facts._replace(recorded=RECORD)
    assert decide(phase, event, facts).do.value == ROWS[event.name.lower()][phase.value]


def test_no_pair_is_missing() -> None:
    assert list(ROWS) == [event.name.lower() for event in Event]
    assert list(TABLE) == list(Event)
    assert all(len(row) == len(Phase) for row in TABLE.values())


# -- what a cell says when something is the matter ------------------------------------------------------------------------


def ending(action: Action) -> tuple[str, MessageDisposition]:
    assert action.settlement is not None
    return action.settlement.ending, action.settlement.then


def test_g3_g9_a_revoked_task_is_cancelled_wherever_it_waits_and_never_gets_a_slot() -> None:
    facts = PLAIN._replace(revocation=REVOKED, error=None)
    cancelled = ("cancelled", MessageDisposition.ACKNOWLEDGE)
    assert ending(decide(Phase.ARRIVED, Event.DECODED, facts)) == cancelled
    for phase in (Phase.HELD, Phase.DEFERRED):
        assert ending(decide(phase, Event.REVOKED, facts)) == cancelled
    assert ending(decide(Phase.HELD, Event.DUE, facts)) == cancelled
    assert ending(decide(Phase.DEFERRED, Event.SLOT_FREE, facts)) == cancelled
    assert decide(Phase.RESERVED, Event.SLOT_FREE, facts).outcome == Outcome(Ending.CANCELLED, revocation=REVOKED)
    withdrawn = facts._replace(outcome=Outcome(Ending.RELEASED))
    assert ending(decide(Phase.RESERVED, Event.ENDED, withdrawn)) == cancelled


def test_g22_a_task_of_a_paused_queue_goes_back_wherever_it_waits_and_what_runs_goes_on() -> None:
    facts = PLAIN._replace(is_paused=True, error=None)
    back = ("released", MessageDisposition.REQUEUE)
    for revocation in (None, REVOKED):  # what is revoked is refused when it comes again
        assert ending(decide(Phase.ARRIVED, Event.DECODED, facts._replace(revocation=revocation))) == back
        assert ending(decide(Phase.HELD, Event.DUE, facts._replace(revocation=revocation))) == back
        assert ending(decide(Phase.DEFERRED, Event.SLOT_FREE, facts._replace(revocation=revocation))) == back
    for phase in (Phase.HELD, Phase.DEFERRED):
        assert ending(decide(phase, Event.PAUSED, facts)) == back
    assert decide(Phase.RESERVED, Event.SLOT_FREE, facts).outcome == Outcome(Ending.RELEASED)
    assert decide(Phase.RESERVED, Event.PAUSED, facts).do is Do.WITHDRAW
    withdrawn = facts._replace(outcome=Outcome(Ending.RELEASED))
    assert ending(decide(Phase.RESERVED, Event.ENDED, withdrawn)) == back
    for phase in (Phase.RUNNING, Phase.STOPPING, Phase.SETTLING):
        assert decide(phase, Event.PAUSED, facts).do is Do.IGNORE


def test_g25_a_rate_limit_is_asked_last_and_only_by_what_may_start_otherwise() -> None:
    facts = PLAIN._replace(is_limited=True, error=None)
    assert decide(Phase.ARRIVED, Event.DECODED, facts).do is Do.PACE
    assert decide(Phase.HELD, Event.DUE, facts).do is Do.PACE
    assert decide(Phase.DEFERRED, Event.SLOT_FREE, facts).do is Do.PACE
    later = replace(MESSAGE, eta=NOW + timedelta(hours=1))
    assert decide(Phase.ARRIVED, Event.DECODED, facts._replace(message=later)).do is Do.HOLD
    assert decide(Phase.ARRIVED, Event.DECODED, facts._replace(is_suspect=True)).do is Do.HOLD
    assert decide(Phase.HELD, Event.DUE, facts._replace(verdict=0.5)).do is Do.HOLD
    for waiting in (facts._replace(revocation=REVOKED), facts._replace(is_paused=True)):
        assert decide(Phase.ARRIVED, Event.DECODED, waiting).settlement is not None
        assert decide(Phase.HELD, Event.DUE, waiting).settlement is not None
    # Whoever has a slot has passed its limits.
    assert decide(Phase.RESERVED, Event.SLOT_FREE, facts).do is Do.PROCEED


def test_g7_only_a_revocation_that_asks_for_it_stops_a_handler() -> None:
    assert decide(Phase.RUNNING, Event.REVOKED, PLAIN._replace(revocation=REVOKED)).do is Do.IGNORE
    assert decide(Phase.RUNNING, Event.REVOKED, PLAIN._replace(revocation=TERMINATED)).stop is Stop.REVOKED
    assert decide(Phase.RESERVED, Event.STARTED, PLAIN._replace(revocation=TERMINATED)).stop is Stop.REVOKED
    assert decide(Phase.RESERVED, Event.STARTED, PLAIN._replace(revocation=REVOKED)).do is Do.PROCEED


@pytest.mark.parametrize(("phase", "event"), PAIRS)
@pytest.mark.parametrize("revocation", [None, REVOKED, TERMINATED], ids=["not revoked", "revoked", "terminate"])
def test_g27_a_ladder_is_climbed_by_what_runs_and_is_to_stop_and_by_nothing_else(
    phase: Phase, event: Event, revocation: Revocation | None
) -> None:
    ladder = Ladder(1.0, 2.0)
    facts = PLAIN._replace(has_started=phase in (Phase.RUNNING, Phase.STOPPING), revocation=revocation, ladder=ladder)
    if event is Event.RECORDED_BEFORE:
        facts = facts._replace(recorded=RECORD)

    action = decide(phase, event, facts)

    runs = (phase, event) in (
        (Phase.RUNNING, Event.REVOKED), (Phase.STOPPING, Event.REVOKED), (Phase.RESERVED, Event.STARTED)
    )  # fmt: skip
    climbs = runs and revocation is TERMINATED
    assert action.ladder == (ladder if climbs else None)
    assert not climbs or (action.do is Do.STOP and action.stop is Stop.REVOKED)


def test_g27_what_a_signal_has_ended_is_recorded_so_and_never_retried() -> None:
    steps = (LadderStep(EndedHow.TERM, NOW), LadderStep(EndedHow.KILL, NOW))
    retried = TaskOptions(max_retries=5)
    ends = [
        (Outcome(Ending.CANCELLED, revocation=TERMINATED, steps=steps), EndedHow.KILL),
        (Outcome(Ending.FAILED, error=ERROR, steps=steps[:1]), EndedHow.TERM),
        (Outcome(Ending.LOST, error=ERROR, steps=steps[:1]), EndedHow.TERM),
        (Outcome(Ending.CANCELLED, revocation=TERMINATED), EndedHow.CHECKPOINT),
    ]
    for outcome, how in ends:
        facts = PLAIN._replace(
            revocation=TERMINATED, outcome=outcome, options=retried, max_retries=5, stopped_after=1.5
        )
        action = decide(Phase.STOPPING, Event.ENDED, facts._replace(has_started=True, started_at=NOW))
        assert action.settlement is not None and action.settlement.record is not None
        record = action.settlement.record
        assert (record.state, action.settlement.then) == (TaskState.CANCELLED, MessageDisposition.ACKNOWLEDGE)
        assert record.ended_by == EndedBy(how, 1.5, outcome.steps)
        assert action.settlement.retry is None


def test_g19_what_another_worker_has_is_neither_started_nor_recorded_nor_acknowledged() -> None:
    lost = PLAIN._replace(is_lease_lost=True, is_ours=False)
    assert decide(Phase.RESERVED, Event.SLOT_FREE, lost).outcome == Outcome(Ending.RELEASED)
    assert decide(Phase.RESERVED, Event.STARTED, lost).stop is Stop.LEASE_LOST
    assert ending(decide(Phase.HELD, Event.DUE, lost)) == ("released", MessageDisposition.LEAVE)
    assert ending(decide(Phase.RUNNING, Event.ENDED, lost)) == ("released", MessageDisposition.LEAVE)
    assert ending(decide(Phase.SETTLING, Event.ATTEMPTED, lost)) == ("released", MessageDisposition.LEAVE)
    assert decide(Phase.SETTLING, Event.ATTEMPTED, lost._replace(has_started=True)).do is Do.PROCEED
    gone = PLAIN._replace(is_ours=False)
    assert ending(decide(Phase.SETTLING, Event.ATTEMPTED, gone)) == ("released", MessageDisposition.REQUEUE)


def test_g26_what_was_cancelled_after_a_run_and_is_not_ours_is_recorded_only_while_it_is_revoked() -> None:
    cancelled = refused(MESSAGE, worker="alpha", now=NOW, revocation=REVOKED)
    ran = PLAIN._replace(settlement=cancelled, has_started=True)
    elsewhere = {
        MessageDisposition.LEAVE: ran._replace(is_ours=False, is_lease_lost=True),
        MessageDisposition.REQUEUE: ran._replace(is_ours=False),
    }
    for then, facts in elsewhere.items():
        assert ending(decide(Phase.SETTLING, Event.ATTEMPTED, facts)) == ("released", then)
        assert decide(Phase.SETTLING, Event.ATTEMPTED, facts._replace(revocation=REVOKED)).do is Do.PROCEED
    # what is still this worker's can't run elsewhere
    assert decide(Phase.SETTLING, Event.ATTEMPTED, ran).do is Do.PROCEED


def test_a_message_waits_for_its_eta_and_a_suspect_for_the_roster() -> None:
    assert decide(Phase.ARRIVED, Event.DECODED, PLAIN._replace(message=replace(MESSAGE, eta=NOW + timedelta(1)))) == (
        Action(Do.HOLD)
    )
    assert decide(Phase.ARRIVED, Event.DECODED, PLAIN._replace(is_suspect=True)) == Action(Do.HOLD, seconds=0.0)
    assert decide(Phase.HELD, Event.DUE, PLAIN._replace(verdict=1.5)) == Action(Do.HOLD, seconds=1.5)
    lost = decide(Phase.HELD, Event.DUE, PLAIN._replace(verdict=TaskError("WorkerLost", "3 workers")))
    assert ending(lost) == ("failed", MessageDisposition.ACKNOWLEDGE)


def test_what_can_not_run_here_ends_with_a_record_and_what_came_of_a_canvas_can_still_be_sent_elsewhere() -> None:
    expired = PLAIN._replace(message=replace(MESSAGE, expires_at=NOW))
    assert ending(decide(Phase.ARRIVED, Event.DECODED, expired)) == ("cancelled", MessageDisposition.ACKNOWLEDGE)
    assert ending(decide(Phase.HELD, Event.DUE, expired)) == ("cancelled", MessageDisposition.ACKNOWLEDGE)
    canvas = PLAIN._replace(message=replace(MESSAGE, celery=CeleryOrigin(canvas=("chain",))))
    assert ending(decide(Phase.ARRIVED, Event.DECODED, canvas)) == ("failed", MessageDisposition.REJECT)
    unknown = PLAIN._replace(unregistered=TaskError("TaskNotRegistered", "no"))
    assert ending(decide(Phase.ARRIVED, Event.DECODED, unknown)) == ("failed", MessageDisposition.ACKNOWLEDGE)


def test_a_forged_task_is_rejected_and_another_applications_message_is_kept() -> None:
    assert decide(Phase.ARRIVED, Event.UNTRUSTED, PLAIN).do is Do.REJECT
    assert decide(Phase.ARRIVED, Event.UNREADABLE, PLAIN._replace(is_signed=False)).do is Do.REJECT
    for event in (Event.UNTRUSTED, Event.FOREIGN):
        kept = decide(Phase.ARRIVED, event, PLAIN._replace(is_task=False)).settlement
        assert kept == Settlement(None, MessageDisposition.ACKNOWLEDGE, retry=MESSAGE)
        dead = decide(Phase.ARRIVED, event, PLAIN._replace(is_task=False, has_dead_letters=True)).settlement
        assert dead == Settlement(None, MessageDisposition.REJECT)


def test_a_redelivery_takes_the_place_of_what_is_here() -> None:
    assert decide(Phase.ARRIVED, Event.REDELIVERED, PLAIN._replace(is_here=True)).do is Do.ADOPT


def test_a_next_attempt_that_fails_without_a_reason_is_given_back_after_three_tries() -> None:
    odd = PLAIN._replace(is_explained=False)
    assert decide(Phase.SETTLING, Event.REFUSED, odd._replace(tries=2)).do is Do.WAIT
    assert ending(decide(Phase.SETTLING, Event.REFUSED, odd._replace(tries=3))) == (
        "released",
        MessageDisposition.REQUEUE,
    )
    assert decide(Phase.SETTLING, Event.REFUSED, PLAIN._replace(tries=1000)).do is Do.WAIT


@pytest.mark.parametrize(
    ("then", "is_current", "is_tag_valid", "do"),
    [
        (MessageDisposition.ACKNOWLEDGE, True, True, Do.ACKNOWLEDGE),
        (MessageDisposition.ACKNOWLEDGE, False, True, Do.ACKNOWLEDGE),
        (MessageDisposition.ACKNOWLEDGE, False, False, Do.REMOVE),
        (MessageDisposition.REJECT, True, True, Do.REJECT),
        (MessageDisposition.REJECT, False, False, Do.REMOVE),
        (MessageDisposition.REQUEUE, True, True, Do.REQUEUE),
        (MessageDisposition.REQUEUE, False, True, Do.REMOVE),
        (MessageDisposition.REQUEUE, False, False, Do.REMOVE),
        (MessageDisposition.LEAVE, True, True, Do.REMOVE),
    ],
)
def test_the_broker_is_told_only_over_a_connection_to_which_the_tag_means_this_message(
    then: MessageDisposition, is_current: bool, is_tag_valid: bool, do: Do
) -> None:
    facts = PLAIN._replace(disposition=then, is_current=is_current, is_tag_valid=is_tag_valid)
    assert decide(Phase.SETTLING, Event.SETTLED, facts).do is do


@pytest.mark.parametrize("then", list(MessageDisposition))
def test_what_followed_a_run_ends_as_that_one_and_goes_back_where_that_is_another_workers(
    then: MessageDisposition,
) -> None:
    expected = MessageDisposition.REQUEUE if then is MessageDisposition.LEAVE else then
    assert decide(Phase.SETTLING, Event.FOLLOWED_ENDED, PLAIN._replace(disposition=then)).disposition is expected


# -- whatever the facts ----------------------------------------------------------------------------------------------------

FACTS = st.builds(
    Facts,
    message=st.builds(
        lambda eta, expires, celery, attempt: replace(
            MESSAGE, eta=eta, expires_at=expires, celery=celery, attempt=attempt
        ),
        st.sampled_from((None, NOW - timedelta(1), NOW + timedelta(1))),
        st.sampled_from((None, NOW - timedelta(1), NOW + timedelta(1))),
        st.sampled_from((None, CeleryOrigin(), CeleryOrigin(canvas=("chord",)))),
        st.integers(1, 5),
    ),
    now=st.just(NOW),
    worker=st.just("alpha"),
    revocation=st.sampled_from((None, REVOKED, TERMINATED)),
    recorded=st.sampled_from((None, RECORD)),
    is_ours=st.booleans(),
    is_lease_lost=st.booleans(),
    is_paused=st.booleans(),
    has_started=st.booleans(),
    is_here=st.booleans(),
    is_task=st.booleans(),
    is_signed=st.booleans(),
    unregistered=st.sampled_from((None, ERROR)),
    is_suspect=st.booleans(),
    has_dead_letters=st.booleans(),
    aside=st.just(MESSAGE),
    error=st.sampled_from((None, ERROR)),
    verdict=st.sampled_from((None, 1.0, ERROR)),
    ladder=st.sampled_from((None, Ladder(1.0, 2.0))),
    outcome=st.builds(
        Outcome, st.sampled_from(Ending), error=st.just(ERROR), retry_in=st.sampled_from((None, 0.0, float("nan")))
    ),
    options=st.just(TaskOptions()),
    started_at=st.just(NOW),
    max_retries=st.integers(0, 3),
    settlement=st.builds(
        Settlement,
        st.just(RECORD),
        st.sampled_from(MessageDisposition),
        retry=st.sampled_from((None, replace(MESSAGE, attempt=2))),
    ),
    why=st.just(ValueError("no")),
    tries=st.integers(0, 9),
    is_explained=st.booleans(),
    disposition=st.sampled_from(MessageDisposition),
    is_current=st.booleans(),
    is_tag_valid=st.booleans(),
)


@given(pair=st.sampled_from(PAIRS), facts=FACTS)
def test_whatever_the_facts_there_is_an_answer_and_it_fits_the_phase(pair: tuple[Phase, Event], facts: Facts) -> None:
    phase, event = pair
    if event is Event.RECORDED_BEFORE:
        facts = facts._replace(recorded=RECORD)
    action = decide(phase, event, facts)
    # Whether a pair is impossible does not depend on facts.
    assert (action.do is Do.FAULT) == (ROWS[event.name.lower()][phase.value] == "fault")
    if action.do is Do.STOP:  # nothing but a handler that runs is ever stopped
        assert phase in (Phase.RUNNING, Phase.STOPPING) or event is Event.STARTED
    if action.do is Do.WITHDRAW:
        assert phase is Phase.RESERVED
    if action.do in (
        Do.ACKNOWLEDGE,
        Do.REJECT,
        Do.REQUEUE,
    ):  # the broker is told of what has just come, or is carried out
        assert (phase, action.do) == (Phase.ARRIVED, Do.REJECT) or phase is Phase.SETTLING
    if facts.revocation is not None and event in (Event.DECODED, Event.DUE, Event.SLOT_FREE):  # G3
        assert action.do is not Do.SUBMIT and action.do is not Do.PROCEED
    if facts.is_paused and event in (Event.DECODED, Event.DUE, Event.SLOT_FREE):  # G22
        assert action.do is not Do.SUBMIT and action.do is not Do.PROCEED
        assert action.settlement is None or action.settlement.then is not MessageDisposition.ACKNOWLEDGE
    if phase is Phase.DONE:  # nothing more happens
        assert action.do in (Do.IGNORE, Do.WITHHOLD) or action.settlement == Settlement(None, MessageDisposition.LEAVE)


# -- every path ------------------------------------------------------------------------------------------------------------


@dataclass
class Life:
    """One delivery, carried out as the worker's parts do. ``leased``: its message has a lease, else it is a connection's."""

    data: st.DataObject
    leased: bool
    phase: Phase = Phase.ARRIVED
    revoked: Revocation | None = None
    lease_lost: bool = False
    connection_lost: bool = False
    paused: bool = False
    started: bool = False
    settlement: Settlement | None = None
    tries: int = 0
    #: What was done about it, in order.
    seen: list[str] = field(default_factory=list)

    def facts(self, **more: object) -> Facts:
        return PLAIN._replace(
            error=None,
            revocation=self.revoked,
            is_lease_lost=self.lease_lost,
            is_paused=self.paused,
            is_ours=not self.lease_lost and not self.connection_lost,
            has_started=self.started,
            started_at=NOW if self.started else None,
            settlement=self.settlement,
            tries=self.tries,
            max_retries=1,
            **more,  # type: ignore[arg-type]
        )

    def happens(self, event: Event, **more: object) -> Action:
        action = decide(self.phase, event, self.facts(**more))
        assert action.do is not Do.FAULT, (self.phase, event)
        if action.do is Do.SUBMIT:
            self.phase = Phase.RESERVED
        elif action.do is Do.HOLD:
            self.phase = Phase.HELD
        elif action.do is Do.DEFER:
            self.phase = Phase.DEFERRED
        elif action.do is Do.STOP:
            assert self.phase in (Phase.RUNNING, Phase.STOPPING)
            self.phase = Phase.STOPPING
        elif action.do is Do.WITHDRAW:
            self.happens(Event.ENDED, outcome=Outcome(Ending.RELEASED))
        elif action.do is Do.WITHHOLD and self.phase is Phase.RESERVED:
            self.happens(Event.ENDED, outcome=action.outcome)
        elif action.settlement is not None:
            self.settlement = action.settlement
            if self.phase is not Phase.DONE:
                self.phase = Phase.SETTLING
        elif action.do in (Do.REMOVE, Do.REQUEUE, Do.REJECT, Do.ACKNOWLEDGE):
            assert self.phase is not Phase.DONE
            self.seen.append(action.do.value)
            self.phase = Phase.DONE
        return action

    def draw(self, *choices: str) -> str:
        return self.data.draw(st.sampled_from(choices))

    def disturbed(self) -> None:
        """What any other thread may report at any moment."""
        what = self.draw("nothing", "nothing", "revoke", "terminate", "lose it", "pause", "stop", "hurry")
        if what in ("revoke", "terminate"):
            self.revoked = TERMINATED if what == "terminate" else self.revoked or REVOKED
            self.happens(Event.REVOKED)
        elif what == "lose it" and self.leased and not self.lease_lost:
            self.lease_lost = True
            self.happens(Event.LEASE_LOST)
        elif what == "lose it" and not self.leased and not self.connection_lost:
            self.connection_lost = True
            self.happens(Event.CONNECTION_LOST)
        elif what == "pause":
            self.paused = not self.paused
            if self.paused:
                self.happens(Event.PAUSED)
        elif what in ("stop", "hurry"):
            self.happens(Event.STOP_REQUESTED if what == "stop" else Event.RELEASE_REQUESTED)

    def step(self) -> None:
        """What happens to it next in its phase."""
        if self.phase is Phase.ARRIVED:
            come = self.draw("task", "eta", "suspect", "unreadable", "foreign", "forged", "recorded")
            eta = NOW + timedelta(1) if come == "eta" else None
            if come in ("task", "eta", "suspect"):
                self.happens(Event.DECODED, message=replace(MESSAGE, eta=eta), is_suspect=come == "suspect")
            elif come == "recorded":
                self.happens(Event.RECORDED_BEFORE, recorded=RECORD)
            else:
                events = {"unreadable": Event.UNREADABLE, "foreign": Event.FOREIGN, "forged": Event.UNTRUSTED}
                dead = self.draw("dead letters", "none") == "none"
                self.happens(events[come], has_dead_letters=dead)
        elif self.phase is Phase.HELD:
            if self.draw("due", "due", "held longest") == "due":
                verdict = {"none": None, "ask": 1.0, "lost": TaskError("WorkerLost", "3")}[
                    self.draw("none", "ask", "lost")
                ]
                self.happens(Event.DUE, verdict=verdict)
            else:
                self.happens(Event.HELD_LONGEST)
        elif self.phase is Phase.DEFERRED:
            self.happens(Event.SLOT_FREE if self.draw("slot", "time") == "slot" else Event.DUE)
        elif self.phase is Phase.RESERVED:
            if self.draw("slot", "slot", "slot", "none") == "none":
                self.happens(Event.NO_SLOT)
                return
            known, paused = self.revoked is not None, self.paused
            if self.happens(Event.SLOT_FREE).do is Do.PROCEED:
                assert not known, "G3: a revoked task has started"
                assert not paused, "G22: a task of a paused queue has started"
                self.disturbed_before_start()
        elif self.phase in (Phase.RUNNING, Phase.STOPPING):
            kind = self.data.draw(st.sampled_from(Ending))
            self.happens(Event.ENDED, outcome=Outcome(kind, error=ERROR))
        else:
            self.carried_out()

    def disturbed_before_start(self) -> None:
        """Between the look before the start and the start."""
        if self.leased and self.draw("nothing", "lose it") == "lose it":
            self.lease_lost = True
        action = decide(Phase.RESERVED, Event.STARTED, self.facts())
        self.phase, self.started = Phase.RUNNING, True
        self.seen.append("started")
        if action.do is Do.STOP:
            self.phase = Phase.STOPPING
        assert (self.phase is Phase.STOPPING) == self.lease_lost

    def carried_out(self) -> None:
        """The next step of its settlement."""
        assert self.settlement is not None
        if self.happens(Event.ATTEMPTED).do is not Do.PROCEED:
            self.finish()
        elif self.settlement.retry is not None:
            how = self.draw("published", "published", "refused", "odd", "never", "give up")
            if how == "published":
                self.seen.append("published")
                self.settlement = replace(self.settlement, retry=None)
            elif how in ("refused", "odd"):
                self.tries += 1
                self.happens(Event.REFUSED, is_explained=how == "refused")
            elif how == "never":
                self.happens(Event.UNSENDABLE, why=ConfigurationError("no"))
            else:
                self.happens(Event.GIVEN_UP)
        else:
            how = self.draw("recorded", "recorded", "not storable", "give up")
            if how == "give up":
                self.happens(Event.GIVEN_UP)
            elif how == "not storable" and self.settlement.record is not None:
                self.happens(Event.NOT_STORABLE, why=StoreError("no"))
            if self.settlement.record is not None:
                self.seen.append(f"recorded {self.settlement.record.state.value}")
            self.finish()

    def finish(self) -> None:
        assert self.settlement is not None
        action = self.happens(Event.RECORDED, disposition=self.settlement.then)
        if self.data.draw(st.booleans()):
            self.disturbed()
        if action.do is Do.FINISH:
            self.happens(
                Event.SETTLED,
                disposition=action.disposition,
                is_current=not self.connection_lost,
                is_tag_valid=not self.connection_lost,
            )


ENDS = {"remove", "requeue", "reject", "acknowledge"}


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_g9_g18_every_path_ends_once_and_an_acknowledgement_comes_last(data: st.DataObject) -> None:
    life = Life(data, leased=data.draw(st.booleans()))
    for _ in range(40):
        if life.phase is Phase.DONE:
            break
        if life.phase is not Phase.ARRIVED:
            life.disturbed()
        if life.phase is not Phase.DONE:
            life.step()
    if life.phase is not Phase.DONE:
        return  # it is held again and again
    for _ in range(3):  # nothing happens any more
        life.disturbed()
    ends = [what for what in life.seen if what in ENDS]
    assert len(ends) == 1 and life.seen[-1] == ends[0], life.seen
    records = [what for what in life.seen if what.startswith("recorded")]
    if "started" in life.seen and ends == ["acknowledge"]:
        assert records, life.seen
    if "recorded retrying" in life.seen:  # a next attempt is at the broker before anything says so
        assert life.seen.index("published") < life.seen.index("recorded retrying")
    if life.lease_lost and "started" not in life.seen:
        assert ends != ["requeue"] or records == []
    if ends == ["remove"]:  # the broker, or another worker, has the message
        assert life.lease_lost or life.connection_lost, life.seen


def test_each_end_is_reached_by_some_path() -> None:
    """The property above looks at all of them."""
    reached: set[str] = set()

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(data=st.data())
    def walk(data: st.DataObject) -> None:
        life = Life(data, leased=data.draw(st.booleans()))
        for _ in range(15):
            if life.phase is not Phase.DONE:
                life.step()
        reached.update(life.seen)

    walk()
    assert {"requeue", "reject", "acknowledge", "started", "published", "recorded retrying"} <= reached
