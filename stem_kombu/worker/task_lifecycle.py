"""The life of each delivery: what happens to it is reported here, :mod:`~stem_kombu.worker.transitions` decides what follows,
and it is done here.

Executors, held deliveries and leases report to this object, which owns them. Revocations arrive at
:meth:`TaskLifecycle.apply`, from the broker or from the store: one path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from stem_kombu.agent.leases import Leases
from stem_kombu.execution.base import Job, Observer, Stop
from stem_kombu.execution.executors import Executors
from stem_kombu.outcome import Ending, Outcome, TaskError, TaskRecord
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied
from stem_kombu.revocation_page import ids_of
from stem_kombu.rule import Rule
from stem_kombu.task import Mode, TaskMessage
from stem_kombu.worker.delayed import DelayedDeliveries, HoldRules
from stem_kombu.worker.deliveries import Delivery, InFlight
from stem_kombu.worker.delivery_events import NO_FACTS, Action, Do, Event, Facts, ImpossibleTransition
from stem_kombu.worker.delivery_facts import DeliveryFacts, of_connection_lost
from stem_kombu.worker.lost_workers import running
from stem_kombu.worker.notices import TaskNotices, complain, report_fault
from stem_kombu.worker.phase import Phase
from stem_kombu.worker.prefetch_policy import Load, PrefetchPolicy
from stem_kombu.worker.recorder import Recorder
from stem_kombu.worker.settlement import Settlement, refused
from stem_kombu.worker.start_log import StartLog
from stem_kombu.worker.transitions import decide

_LIES = (Phase.HELD, Phase.DEFERRED)  # with DelayedDeliveries
#: Events before which :class:`DelayedDeliveries` has let go of the delivery, or after which it need not.
_LET_GO = (Event.DUE, Event.HELD_LONGEST, Event.SLOT_FREE, Event.CONNECTION_LOST)


class TaskLifecycle:
    """Implements the executors' ``Observer``, the ``DeliveryEvents`` of what waits, and what the control plane asks of tasks.

    ``executor(observer)`` makes what runs the tasks.
    """

    def __init__(
        self,
        inflight: InFlight,
        facts: DeliveryFacts,
        recorder: Recorder,
        notices: TaskNotices,
        credit: PrefetchPolicy,
        starts: StartLog,
        executor: Callable[[Observer], Executors],
        rules: HoldRules,
    ) -> None:
        self.inflight = inflight
        self.facts = facts
        self.notices = notices
        self.recorder = recorder
        self._credit = credit
        self.starts = starts
        self.executor = executor(self)
        self.holds = DelayedDeliveries(self, rules, recorder.acks.wake, facts.clock)
        owned = facts.ownership
        self.leases: Leases[Delivery] = Leases(
            owned.leasing, inflight, lost=self._lease_lost, renewed=owned.renewed, clock=facts.clock
        )

    # -- what happens to a delivery -----------------------------------------------------------------------------------

    def happened(self, delivery: Delivery, event: Event) -> None:
        """Decide what follows and do it. From any thread."""
        self._follow_up(delivery, event, self._known(delivery, event))

    def _known(self, delivery: Delivery, event: Event) -> Facts:
        if event is Event.DUE or event is Event.SLOT_FREE:
            return self.facts.of_waiting(delivery) if delivery.phase in _LIES else NO_FACTS
        if event is Event.REVOKED:
            return self.facts.of_revoked(delivery)
        if event is Event.HELD_LONGEST:
            return Facts(delivery.message)
        return of_connection_lost(delivery) if event is Event.CONNECTION_LOST else NO_FACTS

    def _follow_up(self, delivery: Delivery, event: Event, facts: Facts) -> None:
        phase = delivery.phase
        action = decide(phase, event, facts)
        if action.do is Do.IGNORE or action.do is Do.PROCEED:
            return
        if phase in _LIES and event not in _LET_GO and self.holds.release(delivery.token) is None:
            return  # its time has come just now: what becomes of it is decided by what counts now
        if action.do is Do.FAULT:
            report_fault(phase, event, delivery.task_id)
            action = decide(phase, Event.STOP_REQUESTED)
        self.carry_out(delivery, action, facts)

    def carry_out(self, delivery: Delivery, action: Action, facts: Facts = NO_FACTS) -> None:
        """Do what was decided; nothing where another thread has brought the delivery to its end meanwhile."""
        do = action.do
        if delivery.waits_at is not None and do is not Do.PACE:
            self.facts.limits.leave(delivery)
        if do is Do.SUBMIT or (do is Do.PACE and self.facts.limits.take(delivery)):
            self._submit(delivery)
        elif do is Do.SETTLE or do is Do.REFUSE:
            assert action.settlement is not None
            if self.inflight.ended(delivery.token) is not None:
                self._settle(delivery, action.settlement, may_follow=do is Do.REFUSE)
        elif do is Do.HOLD or do is Do.PACE:
            self._hold(delivery, action)
        elif do is Do.STOP:
            self._stop(delivery, action, facts.revocation)
        elif do is Do.WITHDRAW:
            # It then ends, as released, and is given back, which says nothing over another connection.
            if not self.executor.withdraw(delivery.token) and action.stop is not None:
                self._stop(delivery, action)
        elif do is Do.DEFER:
            assert action.until is not None
            if self.inflight.waits(delivery.token, Phase.DEFERRED):
                self.holds.defer(delivery, action.until)
        elif do is Do.REMOVE:
            # At once, not by the recorder: the message may come again at any moment, and must not find it here.
            self.inflight.remove(delivery.token)

    def received(self, message: TaskMessage, *, redelivered: bool) -> None:
        """Count a message that has come, unless this worker itself gave it back."""
        if self.leases.asleep:
            self.leases.wake()
        if self.inflight.put_backs.take(message):
            self._credit.came_back()
        else:
            self.notices.received(message, redelivered)

    def accepted(self, delivery: Delivery) -> None:
        """It is held or submitted next; a task may ask for a longer lease than the transport's from the start."""
        self.notices.accepted(delivery.message)
        if delivery.task.options.visibility is not None:
            self.leases.extend(delivery, delivery.task.options.visibility)

    def _submit(self, delivery: Delivery) -> None:
        """Run the delivery as soon as a slot is free; defer it when none is here, and may be at another worker."""
        if not self.inflight.waits(delivery.token, Phase.RESERVED):
            return
        if self._credit.is_mixed:
            load, now = self.inflight.load(), self.facts.clock.monotonic()
            if (until := self._credit.deferred_until(delivery.task.mode, load, now)) is not None:
                self.carry_out(delivery, decide(Phase.RESERVED, Event.NO_SLOT, Facts(until=until)))
                return
        options, message = delivery.task.options, delivery.message
        self.executor.submit(
            Job(
                token=delivery.token,
                task=delivery.task,
                message=message,
                soft_time_limit=options.soft_time_limit if message.soft_time_limit is None else message.soft_time_limit,
                time_limit=options.time_limit if message.time_limit is None else message.time_limit,
            )
        )

    def _hold(self, delivery: Delivery, action: Action) -> None:
        if not self.inflight.waits(delivery.token, Phase.HELD):
            return
        if action.do is Do.PACE:
            self.holds.hold_for(delivery, self.holds.longest_turn)
            if not self.facts.limits.wait(delivery) and self.holds.release(delivery.token) is not None:
                self.happened(delivery, Event.DUE)  # the limit has just ended, and freed what waited before
        elif action.seconds is None:
            self.holds.hold(delivery, self.facts.fleet_clock.time_for(delivery.message))
        else:
            self.holds.hold_for(delivery, action.seconds)
        # A revocation that came between the look at the cache and the hold found nothing to take out.
        if self.facts.revocation_of(delivery.message) is not None:
            self.happened(delivery, Event.REVOKED)

    def _settle(self, delivery: Delivery, settlement: Settlement, *, may_follow: bool) -> None:
        if may_follow and self.inflight.follow(delivery):
            return
        self.notices.settling(delivery, settlement)
        self.recorder.settle(delivery, settlement)

    def _stop(self, delivery: Delivery, action: Action, revocation: Revocation | None = None) -> None:
        assert action.stop is not None
        revocation = revocation if action.stop is Stop.REVOKED else None
        self.inflight.stopping(delivery.token, revocation)
        if self.executor.stop_job(delivery.token, action.stop, revocation, action.ladder) and revocation is not None:
            self.notices.stop_requested(delivery.task_id)

    def _lease_lost(self, delivery: Delivery) -> None:
        delivery.lease_lost = True
        self.notices.lease_lost(delivery.task_id)
        self.happened(delivery, Event.LEASE_LOST)

    # -- the executors' observer ------------------------------------------------------------------------------------

    def may_start(self, job: Job) -> Outcome | None:
        try:
            delivery = self.inflight.get(job.token)
            if delivery is None:
                return decide(Phase.DONE, Event.SLOT_FREE).outcome
            if self._is_named_beforehand(delivery):
                # The backend may take its time, so this comes before the look at what counts now (G3).
                record = replace(self._running(delivery), started_at=self.facts.clock.utcnow())
                self.recorder.running(delivery, record, at_once=True)
            facts = self.facts.of_slot_free(delivery)
            action = decide(delivery.phase, Event.SLOT_FREE, facts)
            if action.do is Do.FAULT:
                report_fault(delivery.phase, Event.SLOT_FREE, delivery.task_id)
                return Outcome(Ending.RELEASED)
            return action.outcome
        except Exception:  # noqa: BLE001 - the boundary before a start, on which each slot depends
            complain("could not find out whether task %s may start; it goes back to its queue", job.message.task_id)
            return Outcome(Ending.RELEASED)

    def started(self, job: Job, pid: int) -> None:
        if (found := self.inflight.started(job.token, pid)) is None:
            return
        delivery, phase = found
        # After the change of the phase: what was revoked before it found nothing that runs.
        facts = self.facts.of_started(delivery)
        action = decide(phase, Event.STARTED, facts)
        self.notices.started(delivery)
        if self.recorder.tells_of_starts(delivery) and not self._is_named_beforehand(delivery):
            self.recorder.running(delivery, self._running(delivery))
        if job.task.mode is Mode.INLINE:
            self.starts.note(job.message)
        if action.do is Do.FAULT:
            report_fault(delivery.phase, Event.STARTED, delivery.task_id)
        if action.do is not Do.PROCEED:
            self.carry_out(delivery, action, facts)

    def heartbeat(self, job: Job) -> None:
        self.inflight.checkpoint(job.token)

    def progress(self, job: Job, fraction: float | None, data: Mapping[str, object]) -> None:
        self.inflight.checkpoint(job.token, fraction, data)

    def extend_lease(self, job: Job, seconds: float) -> None:
        self.inflight.checkpoint(job.token)
        if (delivery := self.inflight.get(job.token)) is not None:
            self.leases.extend(delivery, seconds)

    def ended(self, job: Job, outcome: Outcome) -> None:
        if (found := self.inflight.ended(job.token)) is None:
            return
        delivery, phase = found
        self._take_up_deferred(job.task.mode)
        if outcome.error is not None and not delivery.lease_lost:
            self.notices.ended(job.message, outcome)
        try:
            action = decide(phase, Event.ENDED, self.facts.of_ended(delivery, job, outcome))
            if action.do is Do.FAULT:
                raise ImpossibleTransition(phase, Event.ENDED)
            settlement, may_follow = action.settlement, action.do is Do.REFUSE
            assert settlement is not None
        except Exception as error:  # noqa: BLE001 - the boundary behind which a task ends in a record, whatever it was
            complain("could not decide what follows from the end of task %s", job.message.task_id)
            said = TaskError(type(error).__name__, f"the worker could not decide what follows from its end: {error}")
            now, may_follow = self.facts.clock.utcnow(), False
            settlement = refused(job.message, worker=self.facts.worker, now=now, error=said)
        if delivery.lease_lost:
            self.notices.ended_elsewhere(delivery.task_id)
        self._settle(delivery, settlement, may_follow=may_follow)

    def _take_up_deferred(self, mode: Mode) -> None:
        """A slot is free: a delivery that was deferred for want of one need not take the way over the broker."""
        next_one: Delivery | None = None
        try:
            next_one = self.holds.take_deferred(mode)
            if next_one is not None:
                self.happened(next_one, Event.SLOT_FREE)
        except Exception:  # noqa: BLE001 - another task, whose trouble is not this one's
            complain("task %s was deferred and can't be taken up", "?" if next_one is None else next_one.task_id)

    def _is_named_beforehand(self, delivery: Delivery) -> bool:
        """Whether the task may have ended a worker before: its record then names this one before the handler begins."""
        inline = delivery.task.mode is Mode.INLINE
        return inline and delivery.history_checked_at is not None and self.recorder.tells_of_starts(delivery)

    def _running(self, delivery: Delivery) -> TaskRecord:
        return running(delivery, self.facts.worker, self.facts.lost_workers.boot)

    def allowance(self) -> int:
        """How many messages may be here."""
        # What waits for its eta takes no slot, so it must not use up the allowance.
        load = self.inflight.load() if self._credit.is_mixed else Load(0, 0)
        room = self._credit.allowance(load, self.facts.clock.monotonic(), self.holds.deferred)
        return room + self.holds.count

    def resize(self, isolates: int) -> None:
        """Have so many children, and fetch for them."""
        self.executor.resize(isolates)
        self._credit.resize(isolates)
        self.recorder.acks.wake()

    # -- what happens to the worker -----------------------------------------------------------------------------------

    def apply(self, revocations: Sequence[Revocation]) -> Applied:
        """Take revocations into the cache, withdraw what waits, and request the stop of what runs where that is asked for."""
        cache = self.facts.cache
        applied = cache.apply(revocations)
        for delivery in self.inflight.of_tasks(ids_of(revocations)):
            # What counts is what the cache holds now: a stale message may still be the first to find the task here.
            facts = self.facts.of_revoked(delivery)
            if facts.revocation is not None:
                self._follow_up(delivery, Event.REVOKED, facts)
        self.notices.revoked(revocations, applied)
        return cache.in_step(revocations, applied)

    def apply_rules(self, rules: Sequence[Rule]) -> list[int]:
        """Obey these rules as well, as :meth:`apply` does revocations; the versions of those that count now."""
        active = self.facts.rules
        if active.take(rules):
            for delivery in self.inflight.all():
                if active.match(delivery.message) is not None:
                    self.happened(delivery, Event.REVOKED)
        given = {rule.version for rule in rules}
        return [rule.version for rule in active.live if rule.version in given]

    def connection_lost(self) -> None:
        """The consumer's connection is lost: where messages stay with it, let go of what has not started."""
        if self.facts.ownership.leased:
            return
        for delivery in self.holds.release_all():
            self.carry_out(delivery, decide(delivery.phase, Event.CONNECTION_LOST, of_connection_lost(delivery)))
        for delivery in self.inflight.all():
            self.happened(delivery, Event.CONNECTION_LOST)

    def stopping(self) -> None:
        """The worker begins to stop: that it ends says nothing of what it runs from now on."""
        self.facts.lost_workers.boot = None
        self.starts.stop()
        for delivery in self.inflight.running():
            if self.recorder.tells_of_starts(delivery):
                self.recorder.running(delivery, self._running(delivery))

    def release_held(self) -> None:
        """Give back everything that waits for its eta or for a slot: the worker is stopping."""
        # The last that came first: each goes to the head of its queue, and so they come again in their order.
        for delivery in reversed(self.holds.release_all()):
            self.carry_out(delivery, decide(delivery.phase, Event.STOP_REQUESTED))
        for delivery in reversed(self.inflight.all()):
            self.happened(delivery, Event.STOP_REQUESTED)

    def release_running(self) -> None:
        """Ask everything that runs to stop at its next checkpoint and go back to the queue (G20)."""
        for delivery in self.inflight.running():
            self.happened(delivery, Event.RELEASE_REQUESTED)
