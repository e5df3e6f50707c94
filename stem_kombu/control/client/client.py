"""The operator's end of the control plane: ask, collect until everyone has answered or the one deadline, report.

A client keeps its connections and may be used from several threads: each command takes one for itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from stem_kombu import chance, timeouts
from stem_kombu.bound import Bound
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.control import standing
from stem_kombu.control.audit import Note
from stem_kombu.control.auditor import Auditor
from stem_kombu.control.client.command_request import (
    checked_command,
    checked_ids,
    checked_targets,
    chunks,
    default_requester,
)
from stem_kombu.control.client.command_sender import CommandSender
from stem_kombu.control.client.connection import ClientConnections
from stem_kombu.control.client.outcomes import outcome_note
from stem_kombu.control.client.pages import completed
from stem_kombu.control.client.places import ClientPlaces, Configured, settings_of
from stem_kombu.control.client.reports import Report, RevokeReport, StatusReport, WorkerStatus
from stem_kombu.control.client.verdict_wait import AskedWorkers, VerdictWait, longest_wait
from stem_kombu.control.directive_writer import DirectiveWriter
from stem_kombu.control.protocol.messages import Call, Inspect, Order, Ping, Revoke, Stats, matches, scope_of
from stem_kombu.control.revoker import Revoker
from stem_kombu.control.verification import Verifier
from stem_kombu.drivers import forking
from stem_kombu.durations import checked_duration
from stem_kombu.errors import BrokerError, ConfigurationError
from stem_kombu.ladder import Ladder, checked_ladder
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.settings import Settings
from stem_kombu.signing.keyring import Scope

if TYPE_CHECKING:
    from stem_kombu.control.client.heartbeat_stream import HeartbeatStream

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ControlClient:
    """Asks workers. ``target`` is an application or settings. ``senders_record``: everything that sends tasks records them, so
    that an id which the backend does not know was never sent; Celery's clients don't.

    Each command takes ``workers=`` (ids and globs, default everyone) and ``timeout=`` in seconds (default: the settings'),
    one deadline for the whole command, and returns a report. Raises :class:`~stem_kombu.errors.BrokerUnavailable` when
    the broker can't be reached, and :class:`ConfigurationError` for invalid arguments and for incomplete
    signing settings. With keys, what the active one may not do raises :class:`~stem_kombu.signing.keyring.Untrusted`
    before anything is stored or said, and only answers that a worker of the fleet signed to this very command are counted.

    While a command waits, ``on_wait(answered, expected, left)`` is called in its thread about twenty times a second, with
    the seconds that are left.
    """

    def __init__(
        self,
        target: Configured | Settings,
        *,
        on_wait: Callable[[int, int, float], None] | None = None,
        senders_record: bool = True,
        clock: Clock = SYSTEM,
    ) -> None:
        self.settings: Settings = settings_of(target)
        self._trust = Verifier.of(self.settings.signing, clock=clock, level=logging.DEBUG)  # reports tell it
        self._on_wait = on_wait
        self._senders_record = senders_record
        self._requester = default_requester()
        self._clock = clock
        self._connections = ClientConnections(self.settings, clock=clock, keyring=self._trust.keyring)
        #: Where the client reads and writes beside the broker.
        self.places = ClientPlaces(self.settings)
        self._sender = CommandSender(
            self.settings, self._connections, self.places, self._trust, self._requester, on_wait, clock
        )
        forking.renew_in_children(self)

    # -- commands -----------------------------------------------------------------------------------------------------

    def ping(self, *, workers: Sequence[str] | None = None, timeout: float | None = None) -> Report:
        """Who handles commands now."""
        return self.ask(Ping(), workers, timeout)

    def inspect(
        self,
        *,
        revoked: bool = False,
        limit: int = 1000,
        workers: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> Report:
        """What runs; with ``revoked`` the newest ``limit`` revocations that each worker holds as well."""
        if limit < 1:
            raise ConfigurationError(f"limit {limit!r} must be at least 1")
        deadline = self._clock.monotonic() + self._timeout(timeout)
        report = self.ask(Inspect(revoked, limit), workers, timeout)
        return completed(report, limit, self.ask, lambda: deadline - self._clock.monotonic()) if revoked else report

    def stats(self, *, workers: Sequence[str] | None = None, timeout: float | None = None) -> Report:
        """Counters, queue depths, pool and metadata."""
        return self.ask(Stats(), workers, timeout)

    def call(
        self,
        name: str,
        args: Mapping[str, object] | None = None,
        *,
        reason: str | None = None,
        requested_by: str | None = None,
        workers: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> Report:
        """A control command that the application registered, with an entry in the audit before."""
        order, targets = Call(checked_command(name), dict(args or {})), checked_targets(workers)
        self._trust.require(scope_of(order), f"give the command {name!r}")
        who, request_id = requested_by or self._requester, chance.token_hex(16)
        note = Note("call", {"command": name, "workers": targets}, who, reason, request_id=request_id)
        return self.ask_audited(order, note, targets, timeout)

    def revoke(
        self,
        task_ids: Sequence[str],
        *,
        terminate: bool = False,
        reason: str | None = None,
        requested_by: str | None = None,
        expires_in: float | None = None,
        ladder: Ladder | None = None,
        bound: Bound | None = None,
        wait: bool = False,
        grace: float = timeouts.VERDICT_GRACE,
        workers: Sequence[str] | None = None,
        timeout: float | None = None,
        progress: Callable[[int, int], None] | None = None,
        on_stored: Callable[[Sequence[Revocation]], None] | None = None,
    ) -> RevokeReport:
        """Store the revocations, then tell the workers: durable before it is visible (G1). Where the workers' keys, heartbeats
        or records show that they would not obey this client, :class:`Untrusted` is raised and nothing was stored.

        ``requested_by`` defaults to user and host. ``progress(sent, of)`` is called as messages go out, ``on_stored`` once they
        are durable. Raises :class:`~stem_kombu.errors.StoreError` when nothing was stored or said: with :class:`StoreLate` the
        time was over, and they may be stored yet. A broker that can't be reached after storing is reported. ``ladder``, with
        ``terminate``: signals to the process group of an isolate that does not stop at a checkpoint; SIGKILL takes a key with
        the scope ``destroy``. ``bound``: only that attempt, or what was sent before that time, is revoked. ``wait``: return when
        each task has its final verdict (``verdicts`` of the report), or at the deadline, by default ten seconds after the
        longest step (``grace``, ladder). ``grace``: seconds after which a thread that has never passed a checkpoint is given up
        as unstoppable.
        """
        checked_ladder(ladder, terminate=terminate)
        timeout = longest_wait(grace, ladder) if wait and timeout is None else self._timeout(timeout)
        targets = checked_targets(workers)
        if expires_in is not None:
            checked_duration(expires_in, name="expires_in")
        who = requested_by or self._requester
        drafts = [RevocationDraft(task_id, terminate, reason, who, expires_in) for task_id in checked_ids(task_ids)]
        began, request_id = self._clock.monotonic(), chance.token_hex(16)
        # StoreError: nothing was said
        save = partial(self.revoker(timeout).save, drafts, request_id, ladder=ladder, bound=bound)
        stored = self.places.in_time(save, timeout + timeouts.STORE_EACH * len(drafts))
        if on_stored is not None:
            on_stored(stored)
        report = self.announce(
            stored, request_id, targets, timeout,
            terminate=terminate, grace=grace if wait else None, began=began, progress=progress,
        )  # fmt: skip
        if wait and report.audited:
            self.noted(outcome_note("revoke", report, who, reason, request_id))
        return report

    def announce(
        self,
        stored: Sequence[Revocation],
        request_id: str,
        targets: tuple[str, ...] | None,
        timeout: float,
        *,
        terminate: bool = False,
        grace: float | None = None,
        began: float | None = None,
        found: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> RevokeReport:
        """Tell the workers what the store holds now, by ``timeout`` seconds after ``began`` and a millisecond for each of them. A
        broker that can't be reached is reported, not raised. ``grace``: return when each task has its verdict. ``found``: they
        were seen."""
        began, wait = self._clock.monotonic() if began is None else began, grace is not None
        span = timeout + timeouts.STORE_EACH * len(stored)
        left = min(timeout, self.left(began, span))
        # One that is silent must not use up the time in which the others can be asked again.
        first = min(self.settings.control_timeout, 0.5 * timeout, left) if wait else left
        settle = min(timeouts.SETTLE_LONGEST, timeouts.SETTLE_SHARE * first) if terminate or wait else 0.0
        orders = [Revoke(tuple(chunk), settle, wait) for chunk in chunks(stored)]
        try:
            answered = self._sender.ask(orders, targets, first, began=began, progress=progress, request_id=request_id)
            report = RevokeReport.of(answered, stored)
        except BrokerError as error:
            report = RevokeReport.unsent(stored, error, self.settings.namespace, request_id, timeout)
            report = replace(report, elapsed=self._clock.monotonic() - began)
        audited = self.places.revoke_store().keeps_records
        report = replace(report, timeout=timeout, durable=self.settings.durable, audited=audited)
        if grace is None:
            return report
        waiting = VerdictWait(
            AskedWorkers(self._sender.ask, self._sender.roster_view, self.places.task_records), self._clock, grace=grace,
            senders_record=self._senders_record and not found, on_verdict=self._on_wait,
        )  # fmt: skip
        return waiting.until_final(report, began, began + span)

    def save(
        self, drafts: Sequence[RevocationDraft], *, timeout: float | None = None, ladder: Ladder | None = None
    ) -> list[Revocation]:
        """Store revocations as :meth:`revoke` does, and tell no worker. Raises as it does."""
        return self.revoker(timeout).save(drafts, ladder=ladder)

    def revoker(self, timeout: float | None = None) -> Revoker:
        """What stores revocations for this client, and takes them back, where the workers would obey it."""
        self._connections.link()  # an invalid broker URL is refused before anything is stored
        store, keep = self.places.revoke_store(), self.settings.audit_keep
        return Revoker(store, self.settings.namespace, self._trust, self._fleet(timeout), keep=keep)

    def auditor(self) -> Auditor:
        """Stores this client's changes with entries in the audit. Raises :class:`Untrusted`, :class:`ConfigurationError`."""
        self._trust.require(Scope.OPERATE, "change revocations, directives or rules")
        return self.places.auditor(self._trust.keyring)

    def noted(self, note: Note, within: float = timeouts.NOTE_LATEST) -> bool:
        """Whether the audit has this entry within so many seconds: not where the store is down or slow, keeps no records, or
        where none is configured."""
        return self.places.noted(note, self._trust.keyring, within=within)

    def directive_writer(self, timeout: float | None = None) -> DirectiveWriter:
        """What stores directives for this client; no worker is told. An invalid broker URL is refused."""
        self._connections.link()
        store, namespace = self.places.revoke_store(), self.settings.namespace
        return DirectiveWriter(store, namespace, self._trust, self._fleet(timeout), self.auditor)

    def status(self, *, workers: Sequence[str] | None = None, timeout: float | None = None) -> StatusReport:
        """The workers by their last heartbeats, dead ones included while the roster remembers them.
        Raises :class:`~stem_kombu.errors.StoreUnavailable` when the roster can't be read."""
        self._trust.require(Scope.READ, "see who is alive")
        targets, namespace, roster = checked_targets(workers), self.settings.namespace, self.places.roster()
        whole = self.places.in_time(
            partial(roster.view, namespace), self._timeout(timeout), f"roster {roster.url}", stores=False
        )
        view = self._trust.view(whole, namespace)
        found = [WorkerStatus.at(beat, view.now) for beat in view.heartbeats if matches(targets, beat.worker)]
        return StatusReport(namespace, tuple(found), untrusted=dict(self._trust.roster.dropped))

    def heartbeats(self, *, timeout: float | None = None) -> HeartbeatStream:
        """A stream of heartbeats as they are sent, connected when it is returned; close it."""
        self._trust.require(Scope.READ, "see who is alive")
        from stem_kombu.control.client.heartbeat_stream import HeartbeatStream

        return HeartbeatStream(
            self._connections.link(),
            self.settings.namespace,
            timeout=self._timeout(timeout),
            clock=self._clock,
            trust=self._trust,
            roster_now=self._sender.roster_now(),
        )

    # -- life -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let every connection go. May be called twice; the client can't be used afterwards."""
        self._sender.close()
        self.places.close()

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`: no thread of the parent is here, to let go of a lock or to read the roster."""
        self.places.renew()
        self._sender.renew()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- asking -------------------------------------------------------------------------------------------------------

    def ask(self, order: Order, workers: Sequence[str] | None = None, timeout: float | None = None) -> Report:
        """Give any order; the methods above say what."""
        self._trust.require(scope_of(order), f"give the command {order.name!r}")
        return self._sender.ask([order], checked_targets(workers), self._timeout(timeout))

    def ask_audited(
        self, order: Order, note: Note, workers: Sequence[str] | None = None, timeout: float | None = None
    ) -> Report:
        """The same of an order that stores nothing, with its note in the audit before and one of the outcome after: all of it
        under the one deadline, so that a slow store leaves time for the workers (G13). ``audited`` of the report: whether."""
        self._trust.require(scope_of(order), f"give the command {order.name!r}")
        targets, timeout = checked_targets(workers), self._timeout(timeout)
        began = self._clock.monotonic()
        audited = self.noted(note, timeouts.NOTE_SHARE * timeout)
        left = self.left(began, timeout)
        report = self._sender.ask([order], targets, left, began=began, request_id=note.request_id)
        if audited:
            self.noted(outcome_note(note.action, report, note.requester, note.reason, report.request_id))
        return replace(report, timeout=timeout, audited=audited)

    def left(self, began: float, timeout: float) -> float:
        """How many seconds a command has left that began then, by the client's clock; at least enough to send an order."""
        return max(timeout - (self._clock.monotonic() - began), timeouts.CLIENT_LEAST_REPLY)

    def _fleet(self, timeout: float | None) -> standing.Fleet:
        """The workers that are to obey this client: it asks the roster and the workers, for a part of ``timeout`` each."""
        probe = min(timeouts.KEY_PROBE, timeouts.KEY_PROBE_SHARE * self._timeout(timeout))
        return standing.Fleet(
            partial(self._sender.lookout.view, probe, []),
            lambda: self._sender.ask([Revoke(())], None, probe, enough=standing.accepts).replies,
        )

    def _timeout(self, timeout: float | None) -> float:
        return self.settings.control_timeout if timeout is None else checked_duration(timeout, name="timeout")
