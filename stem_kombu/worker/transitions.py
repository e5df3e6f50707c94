"""What becomes of a delivery: one table, a row for each event and a column for each phase.

:func:`decide` is the only place that decides it. It is pure: what has to be read is in :class:`Facts`, and what has to be
done is an :class:`Action`, carried out by the parts that hold the delivery. It is total: each event has an answer in each
phase. ``_ignore`` is for an event that came too late or changes nothing, ``_fault`` for one that can't come in that phase.

Two kinds of events have no row. That a child died is an outcome, so it is ``ENDED``. That a message expired or was revoked
before it came is a fact that ``DECODED`` and ``DUE`` look at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from stem_kombu.execution.base import Stop
from stem_kombu.outcome import Ending, Outcome, TaskError
from stem_kombu.worker.delivery_events import NO_FACTS, Action, Do, Event, Facts
from stem_kombu.worker.phase import Phase
from stem_kombu.worker.settlement import (
    MessageDisposition,
    Settlement,
    expiry,
    not_storable,
    recorded_before,
    refused,
    settle,
    unsendable,
    unsupported_canvas,
)

#: Tries of a next attempt that fails in a way that no broker's state explains; then this attempt is given back.
MOST_UNEXPLAINED = 3

Rule = Callable[[Facts], Action]

IGNORE, FAULT, PROCEED, WAIT, ADOPT = map(Action, (Do.IGNORE, Do.FAULT, Do.PROCEED, Do.WAIT, Do.ADOPT))
HOLD, PACE, SUBMIT, REMOVE, ACKNOWLEDGE = map(Action, (Do.HOLD, Do.PACE, Do.SUBMIT, Do.REMOVE, Do.ACKNOWLEDGE))
REJECT, REQUEUE = map(Action, (Do.REJECT, Do.REQUEUE))
_FINISHES = {then: Action(Do.FINISH, disposition=then) for then in MessageDisposition}
GIVE_BACK = Action(Do.SETTLE, Settlement(None, MessageDisposition.REQUEUE))
LEAVE = Action(Do.SETTLE, Settlement(None, MessageDisposition.LEAVE))
_STOP_REVOKED = Action(Do.STOP, stop=Stop.REVOKED)
_RELEASED = Action(Do.WITHHOLD, outcome=Outcome(Ending.RELEASED))


def decide(phase: Phase, event: Event, facts: Facts = NO_FACTS) -> Action:
    """What becomes of a delivery in ``phase`` to which ``event`` happens. Raises nothing for facts that fit the event."""
    return _ROWS[event.place][phase.place](facts)


# -- rules that say always the same -----------------------------------------------------------------------------------


def _always(action: Action) -> Rule:
    return lambda _: action


_ignore, _fault, _remove = map(_always, (IGNORE, FAULT, REMOVE))
_give_back, _leave, _denied = map(_always, (GIVE_BACK, LEAVE, _RELEASED))
_withdraw = _always(Action(Do.WITHDRAW))
_lease_lost = _always(Action(Do.WITHDRAW, stop=Stop.LEASE_LOST))
_stop_lost = _always(Action(Do.STOP, stop=Stop.LEASE_LOST))
_release = _always(Action(Do.STOP, stop=Stop.SHUTDOWN))


# -- a message has come -----------------------------------------------------------------------------------------------


def _untrusted(facts: Facts) -> Action:
    return REJECT if facts.is_task else _foreign(facts)


def _unreadable(facts: Facts) -> Action:
    """With a dead-letter exchange its message can still be sent to a Celery worker."""
    if not facts.is_signed:
        return REJECT  # where tasks are signed, an unsigned one may bear the id of any task
    if facts.revocation is not None:
        facts = facts._replace(error=None)
    settlement = _refused(facts, MessageDisposition.REJECT)
    return _ended_by(settlement, facts) if facts.is_task else _kept(facts, settlement)


def _foreign(facts: Facts) -> Action:
    return _kept(facts, Settlement(None, MessageDisposition.REJECT))


def _kept(facts: Facts, settlement: Settlement) -> Action:
    """To the dead-letter exchange of its queue, or into a queue of its own."""
    if not facts.has_dead_letters:
        settlement = replace(settlement, then=MessageDisposition.ACKNOWLEDGE, retry=facts.aside)
    return _ended_by(settlement, facts)


def _again(facts: Facts) -> Action:
    return ADOPT if facts.is_here else PROCEED


def _known_end(facts: Facts) -> Action:
    assert facts.message is not None and facts.recorded is not None
    return _ended_by(recorded_before(facts.message, facts.recorded), facts)


def _decoded(facts: Facts) -> Action:
    message = facts.message
    assert message is not None and facts.now is not None
    if facts.is_paused:
        return GIVE_BACK  # before all else: it may be revoked or have expired, and is refused when the pause has ended
    if facts.revocation is not None:
        return _ended_by(_refused(facts), facts)
    if message.expires_at is not None and (expired := expiry(message, facts.now)) is not None:
        return _ended_by(_refused(facts._replace(error=expired)), facts)
    if message.celery is not None and (unsupported := unsupported_canvas(message)) is not None:
        # Rejected, not acknowledged: with a dead-letter exchange it can still be sent to a worker that can run it.
        return _ended_by(_refused(facts._replace(error=unsupported), MessageDisposition.REJECT), facts)
    if facts.unregistered is not None:
        return _ended_by(_refused(facts._replace(error=facts.unregistered)), facts)
    if message.eta is not None and message.eta > (facts.fleet_now or facts.now):
        return HOLD
    # To judge it reads the roster, for which the thread of the connection has no time.
    return Action(Do.HOLD, seconds=0.0) if facts.is_suspect else _ready(facts)


# -- a delivery waits -------------------------------------------------------------------------------------------------


def _due(facts: Facts) -> Action:
    """It may have been revoked or have expired while it waited."""
    assert facts.message is not None and facts.now is not None
    if facts.is_lease_lost:
        return LEAVE
    if facts.is_paused:
        return GIVE_BACK
    if facts.revocation is not None:
        return _revoked(facts)
    expired = expiry(facts.message, facts.now)
    gone = facts.verdict if isinstance(facts.verdict, TaskError) else None
    if expired is not None or gone is not None:
        return _ended_by(_refused(facts._replace(error=expired or gone)), facts)
    return Action(Do.HOLD, seconds=facts.verdict) if isinstance(facts.verdict, float) else _ready(facts)


def _ready(facts: Facts) -> Action:
    return PACE if facts.is_limited else SUBMIT


def _revoked(facts: Facts) -> Action:
    return IGNORE if facts.revocation is None else _ended_by(_refused(facts), facts)


def _republish(facts: Facts) -> Action:
    """Put back at the broker, as it was; this copy of it is acknowledged."""
    assert facts.message is not None
    return Action(Do.SETTLE, Settlement(None, MessageDisposition.ACKNOWLEDGE, retry=replace(facts.message)))


def _defer(facts: Facts) -> Action:
    return Action(Do.DEFER, until=facts.until)


def _slot_free(facts: Facts) -> Action:
    if facts.is_paused:
        return _RELEASED
    if facts.recorded is not None:
        return _RELEASED
    if facts.revocation is not None:
        return Action(Do.WITHHOLD, outcome=Outcome(Ending.CANCELLED, revocation=facts.revocation))
    # Given back, which says nothing over another connection, and rightly over this one should the message come here
    # again at this very moment.
    return PROCEED if facts.is_ours else _RELEASED


# -- a handler runs ---------------------------------------------------------------------------------------------------


def _started(facts: Facts) -> Action:
    """A stop that was requested between the look before the start and the start found nothing running."""
    if facts.is_lease_lost:
        return _stop_lost(facts)
    stop = _stop(facts)
    return PROCEED if stop is IGNORE else stop


def _stop(facts: Facts) -> Action:
    if facts.revocation is None or not facts.revocation.terminate:
        return IGNORE
    return _STOP_REVOKED if facts.ladder is None else _STOP_REVOKED._replace(ladder=facts.ladder)


def _ended(facts: Facts) -> Action:
    message, outcome, now = facts.message, facts.outcome, facts.now
    assert message is not None and outcome is not None and now is not None and facts.options is not None
    if facts.is_lease_lost:
        return LEAVE  # its outcome is another worker's
    if facts.recorded is not None:
        return _known_end(facts)
    if outcome.kind is Ending.RELEASED and facts.revocation is not None and not facts.has_started:
        # Withdrawn because it was revoked while it waited for a slot.
        return _ended_by(_refused(facts), facts)
    settlement = settle(
        message,
        facts.options,
        outcome,
        worker=facts.worker,
        started_at=facts.started_at,
        revocation=facts.revocation,
        max_retries=facts.max_retries,
        now=now,
        fleet_now=facts.fleet_now,
        jitter=facts.jitter,
        lost_workers=facts.lost_workers,
        stopped_after=facts.stopped_after,
    )
    return _ended_by(settlement, facts)


# -- an outcome is carried out ----------------------------------------------------------------------------------------


def _attempted(facts: Facts) -> Action:
    """What waits here may have been given to another worker meanwhile."""
    if facts.is_ours and not facts.is_lease_lost:
        return PROCEED
    settlement = facts.settlement
    assert settlement is not None
    # The worker that has the message decides anew what was refused here. It may also let run what was cancelled here after a
    # run, once the revocation has expired or is undone, and no record may say cancelled then (G26).
    is_decided_anew = not facts.has_started or (settlement.cancels and facts.revocation is None)
    if facts.is_lease_lost:
        return LEAVE if is_decided_anew or settlement.retry is not None else PROCEED
    # Given back, which says nothing of a connection that is gone. Not left: should the message come here again meanwhile
    # and take this one's place, no other worker would have it.
    return GIVE_BACK if is_decided_anew else PROCEED


def _not_sent(facts: Facts) -> Action:
    # Not lost: the broker delivers this attempt again.
    return WAIT if facts.is_explained or facts.tries < MOST_UNEXPLAINED else GIVE_BACK


def _unsendable(facts: Facts) -> Action:
    """To give this attempt back would run it again for ever."""
    assert facts.settlement is not None and facts.why is not None
    return Action(Do.SETTLE, unsendable(facts.settlement, facts.why))


def _unstorable(facts: Facts) -> Action:
    assert facts.settlement is not None and facts.why is not None
    return Action(Do.SETTLE, not_storable(facts.settlement, facts.tries, facts.why))


def _recorded(facts: Facts) -> Action:
    assert facts.disposition is not None
    return _FINISHES[facts.disposition]


def _follow(facts: Facts) -> Action:
    assert facts.disposition is not None
    left = facts.disposition is MessageDisposition.LEAVE
    return _FINISHES[MessageDisposition.REQUEUE if left else facts.disposition]


def _settled(facts: Facts) -> Action:
    """A delivery of a lost AMQP connection is the broker's again; its redelivery finds the recorded outcome."""
    then = facts.disposition
    if then is MessageDisposition.LEAVE or not facts.is_tag_valid:
        return REMOVE
    if then is MessageDisposition.ACKNOWLEDGE:
        return ACKNOWLEDGE
    if then is MessageDisposition.REJECT:
        return REJECT
    return REQUEUE if facts.is_current else REMOVE


def _let_go(facts: Facts) -> Action:
    """Refused, and not recorded yet: the worker that gets it next decides about it, by what counts then."""
    return IGNORE if facts.has_started else REMOVE


# -- what several rules share -----------------------------------------------------------------------------------------


def _refused(facts: Facts, then: MessageDisposition = MessageDisposition.ACKNOWLEDGE) -> Settlement:
    assert facts.message is not None and facts.now is not None
    return refused(
        facts.message,
        worker=facts.worker,
        now=facts.now,
        revocation=facts.revocation,
        error=facts.error,
        then=then,
        lost_workers=facts.lost_workers,
    )


def _ended_by(settlement: Settlement, facts: Facts) -> Action:
    """What is refused while another message of the same attempt runs here goes with that one: its record would say that the
    attempt never ran."""
    return Action(Do.REFUSE if not facts.has_started and settlement.refuses else Do.SETTLE, settlement)


# fmt: off
#: For each event what follows in each phase, in the order of :class:`Phase`.
TABLE: dict[Event, tuple[Rule, Rule, Rule, Rule, Rule, Rule, Rule, Rule]] = {
    #                         ARRIVED      HELD         DEFERRED     RESERVED     RUNNING      STOPPING     SETTLING     DONE
    Event.UNTRUSTED:         (_untrusted,  _fault,      _fault,      _fault,      _fault,      _fault,      _fault,      _ignore),
    Event.UNREADABLE:        (_unreadable, _fault,      _fault,      _fault,      _fault,      _fault,      _fault,      _ignore),
    Event.FOREIGN:           (_foreign,    _fault,      _fault,      _fault,      _fault,      _fault,      _fault,      _ignore),
    Event.REDELIVERED:       (_again,      _fault,      _fault,      _fault,      _fault,      _fault,      _fault,      _ignore),
    Event.RECORDED_BEFORE:   (_known_end,  _fault,      _fault,      _fault,      _fault,      _fault,      _fault,      _ignore),
    Event.DECODED:           (_decoded,    _fault,      _fault,      _fault,      _fault,      _fault,      _fault,      _ignore),
    Event.DUE:               (_fault,      _due,        _give_back,  _fault,      _fault,      _fault,      _ignore,     _ignore),
    Event.HELD_LONGEST:      (_fault,      _republish,  _fault,      _fault,      _fault,      _fault,      _ignore,     _ignore),
    Event.NO_SLOT:           (_fault,      _fault,      _fault,      _defer,      _fault,      _fault,      _ignore,     _ignore),
    Event.SLOT_FREE:         (_fault,      _fault,      _due,        _slot_free,  _fault,      _fault,      _denied,     _denied),
    Event.STARTED:           (_fault,      _fault,      _fault,      _started,    _fault,      _fault,      _ignore,     _ignore),
    Event.ENDED:             (_fault,      _fault,      _fault,      _ended,      _ended,      _ended,      _ignore,     _ignore),
    Event.REVOKED:           (_ignore,     _revoked,    _revoked,    _withdraw,   _stop,       _stop,       _ignore,     _ignore),
    Event.PAUSED:            (_ignore,     _give_back,  _give_back,  _withdraw,   _ignore,     _ignore,     _ignore,     _ignore),
    Event.LEASE_LOST:        (_remove,     _leave,      _leave,      _lease_lost, _stop_lost,  _stop_lost,  _ignore,     _ignore),
    Event.CONNECTION_LOST:   (_remove,     _remove,     _remove,     _withdraw,   _ignore,     _ignore,     _let_go,     _ignore),
    Event.STOP_REQUESTED:    (_give_back,  _give_back,  _give_back,  _withdraw,   _ignore,     _ignore,     _ignore,     _ignore),
    Event.RELEASE_REQUESTED: (_give_back,  _give_back,  _give_back,  _withdraw,   _release,    _release,    _ignore,     _ignore),
    Event.ATTEMPTED:         (_fault,      _fault,      _fault,      _fault,      _fault,      _fault,      _attempted,  _leave),
    Event.REFUSED:           (_fault,      _fault,      _fault,      _fault,      _fault,      _fault,      _not_sent,   _leave),
    Event.UNSENDABLE:        (_fault,      _fault,      _fault,      _fault,      _fault,      _fault,      _unsendable, _leave),
    Event.NOT_STORABLE:      (_fault,      _fault,      _fault,      _fault,      _fault,      _fault,      _unstorable, _leave),
    Event.GIVEN_UP:          (_fault,      _fault,      _fault,      _fault,      _fault,      _fault,      _give_back,  _leave),
    Event.RECORDED:          (_fault,      _fault,      _fault,      _fault,      _fault,      _fault,      _recorded,   _ignore),
    Event.FOLLOWED_ENDED:    (_fault,      _fault,      _fault,      _fault,      _fault,      _fault,      _follow,     _ignore),
    Event.SETTLED:           (_fault,      _fault,      _fault,      _fault,      _fault,      _fault,      _settled,    _ignore),
}
# fmt: on

_ROWS = [TABLE[event] for event in Event]
