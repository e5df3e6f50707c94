"""Revoking tasks by what they are: preview, then the deed, which runs the same selection (G29, G30).

Tasks that can be found, at workers and in queues that can be searched, are revoked by their ids. A rule revokes the rest of what
was sent before the cut-off: what waits in a broker that can't be searched, and what is on its way just now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from stem_kombu import chance, timeouts
from stem_kombu.clock import isoformat
from stem_kombu.control import audit
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.command_request import checked_targets
from stem_kombu.control.client.outcomes import outcome_note
from stem_kombu.control.client.reports import Report, RevokeReport
from stem_kombu.control.client.selection import Gathering, Selection, Wish
from stem_kombu.control.client.verdict_wait import longest_wait
from stem_kombu.control.protocol.messages import Rules, Select
from stem_kombu.control.revoker import Revoker
from stem_kombu.control.rule_records import draft_of, rules_of
from stem_kombu.control.stamped_rules import StampDraft, save_stamped
from stem_kombu.durations import checked_duration
from stem_kombu.errors import BrokerError, ConfigurationError
from stem_kombu.ladder import Ladder, checked_ladder
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.rule import LONGEST_UNDATED, MOST_LIVE, PLACE, Rule
from stem_kombu.selector import Selector
from stem_kombu.signing.rule_proofs import signed_rule
from stem_kombu.stores.records import Change


@dataclass(frozen=True, slots=True)
class SelectedReport:
    """What came of it: the selection that was carried out, the report of its ids (``None`` where there were none), and the
    rule with the workers that said that they obey it."""

    selection: Selection
    report: RevokeReport | None = None
    rule: Rule | None = None
    obeyed_by: tuple[str, ...] = ()
    not_obeyed_by: tuple[str, ...] = ()
    request_id: str | None = None
    #: Whether the audit has an entry of it.
    audited: bool = True

    @property
    def is_confirmed(self) -> bool:
        """Whether a worker answered about the rule, where there is one."""
        return self.rule is None or bool(self.obeyed_by or self.not_obeyed_by)

    def to_dict(self) -> dict[str, Any]:
        report = self.report
        return {
            "preview": self.selection.to_dict(),
            "rule": None if self.rule is None else self.rule.to_record(),
            "request_id": self.request_id,
            "rule_applied_by": list(self.obeyed_by),
            "rule_not_applied_by": list(self.not_obeyed_by),
            "revoked": 0 if report is None else len(report.stored),
            "audited": self.audited,
            "silent": [] if report is None else list(report.silent),
            **(
                {}
                if report is None or report.verdicts is None
                else {"verdicts": [v.to_dict() for v in report.verdicts]}
            ),
            "broadcast": report is None or report.broadcast,
            "complete": (self.is_confirmed if report is None else report.complete) and not self.not_obeyed_by,
        }


@dataclass(frozen=True, slots=True)
class _Deed:
    """What is to be stored: a revocation for each id of the selection, and perhaps a rule."""

    selection: Selection
    terminate: bool
    reason: str | None
    requester: str
    expires_in: float | None
    ladder: Ladder | None
    request_id: str
    rule: Rule | None = None

    def drafts(self, ids: Sequence[str]) -> list[RevocationDraft]:
        return [
            RevocationDraft(task_id, self.terminate, self.reason, self.requester, self.expires_in) for task_id in ids
        ]

    def new_rule(self, namespace: str, now: datetime, ends: datetime) -> Rule:
        wish = self.selection.wish
        return Rule(
            namespace, chance.uuid_text(), 0, now, ends, wish.selector, wish.before, self.terminate, wish.undated,
            self.reason, self.requester, self.selection.counts(), self.request_id, ladder=self.ladder,
        )  # fmt: skip

    def note(self, ids: Sequence[str]) -> audit.Note:
        """The entry in the audit for these ids and the rule."""
        wish, steps = self.selection.wish, {} if self.ladder is None else self.ladder.to_record()
        target = {
            **audit.tasks_target(ids, terminate=self.terminate, **steps),
            "selector": wish.selector.to_record(),
            "enqueued_before": isoformat(wish.before),
            "rule": None if self.rule is None else self.rule.key,
            "preview": self.selection.counts(),
        }
        return audit.Note("revoke", target, self.requester, self.reason, request_id=self.request_id)


@dataclass(frozen=True, slots=True)
class UndoneRules:
    """Rules that were taken back. ``pending`` are live workers that have not confirmed it: they cease to obey with their next
    sync. ``is_told`` is false where the broker could not be reached."""

    rules: tuple[Rule, ...]
    pending: tuple[str, ...] = ()
    is_told: bool = True

    def to_dict(self) -> dict[str, Any]:
        return {"rules": [rule.to_record() for rule in self.rules], "rules_pending": list(self.pending)}


class SelectorClient(ControlClient):
    """A :class:`ControlClient` that revokes by selector."""

    def __enter__(self) -> SelectorClient:
        return self

    def wish(
        self,
        selector: Selector,
        *,
        enqueued_before: datetime | None = None,
        longer_than: float | None = None,
        undated: bool = False,
        timeout: float | None = None,
    ) -> Wish:
        """The wish with its cut-off: the store's now unless an earlier time is given. Raises
        :class:`~stem_kombu.errors.ConfigurationError` for a selector without a condition and for a time ahead."""
        if not selector and longer_than is None:
            raise ConfigurationError("there is no condition to select tasks by")
        if longer_than is not None:
            checked_duration(longer_than, name="longer_than")
        now = self.places.in_time(self.places.revoke_store().now, self._timeout(timeout), stores=False)
        if enqueued_before is not None and enqueued_before > now:
            raise ConfigurationError(
                f"enqueued_before {isoformat(enqueued_before)} is later than the store's time, {isoformat(now)}",
                hint="a rule revokes what was sent in the past; leave it out for now",
            )
        return Wish(selector, enqueued_before or now, enqueued_before is not None, longer_than, undated)

    def select(self, wish: Wish, *, workers: Sequence[str] | None = None, timeout: float | None = None) -> Selection:
        """What matches now: asked of workers, and searched for in queues where that does no harm. Changes nothing."""
        report = self.ask(Select(wish.selector, wish.before, wish.longer_than), workers, timeout)
        found = Gathering(wish)
        found.of_workers(report)
        if wish.longer_than is None:
            found.of_queues(self.settings)
        return found.selection()

    def revoke_selected(
        self,
        selection: Selection,
        *,
        terminate: bool = False,
        reason: str | None = None,
        requested_by: str | None = None,
        expires_in: float | None = None,
        rule_life: float | None = None,
        ladder: Ladder | None = None,
        wait: bool = False,
        grace: float = timeouts.VERDICT_GRACE,
        workers: Sequence[str] | None = None,
        timeout: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> SelectedReport:
        """Store the revocations of the selection's ids, the rule and the entry in the audit, all or nothing, then tell the
        workers. ``rule_life``: seconds until the rule expires (default: 7 days, without a time of sending at most 1 hour).

        ``ladder``, ``wait`` and ``grace`` are those of :meth:`ControlClient.revoke`, for each task that was found: also what
        began to run between the look and the rule.
        """
        checked_ladder(ladder, terminate=terminate)
        timeout = longest_wait(grace, ladder) if wait and timeout is None else self._timeout(timeout)
        targets, who = checked_targets(workers), requested_by or self._requester
        began = self._clock.monotonic()
        deed = _Deed(selection, terminate, reason, who, expires_in, ladder, chance.token_hex(16))
        revoker = self.revoker(timeout)
        span = timeout + timeouts.STORE_EACH * len(selection.ids)
        stored, rules = self.places.in_time(partial(self._saved, deed, rule_life, revoker), span)
        if not stored and not rules:
            return SelectedReport(selection)
        rule = rules[0] if rules else None
        deed = replace(deed, rule=rule)
        obeyed: tuple[str, ...] = ()
        not_obeyed: tuple[str, ...] = ()
        answered: Report | None = None
        if rule is not None:
            # One that is silent must not use up the time in which the others are told of their tasks.
            left = min(timeout, self.left(began, span))
            try:
                answered = self._sender.ask([Rules((rule,))], targets, 0.5 * left if stored else left)
            except BrokerError as error:
                unsent = RevokeReport.unsent(stored, error, self.settings.namespace, deed.request_id, timeout)
                return SelectedReport(selection, unsent, rule, request_id=deed.request_id, audited=revoker.is_audited)
            obeyed, not_obeyed = _obedience(answered, rule)
            if terminate and (ladder is not None or wait):
                if late := self._late(deed, targets, min(timeout, self.left(began, span))):
                    save = partial(revoker.save_selected, deed.drafts(late), None, deed.note(late), ladder=ladder)
                    stored += self.places.in_time(save, self.left(began, span))[0]
        told = None
        if stored:
            told = self.announce(
                stored, deed.request_id, targets, timeout,
                terminate=terminate, grace=grace if wait else None, began=began, found=True, progress=progress,
            )  # fmt: skip
        if (answers := told or answered) is not None and revoker.is_audited:
            self.noted(outcome_note("revoke", answers, who, reason, deed.request_id))
        return SelectedReport(selection, told, rule, obeyed, not_obeyed, deed.request_id, revoker.is_audited)

    def _saved(self, deed: _Deed, rule_life: float | None, revoker: Revoker) -> tuple[list[Revocation], list[Rule]]:
        """What the store holds of the selection's ids and of a rule for the rest; nothing where there is neither."""
        ids, wish = deed.selection.ids, deed.selection.wish
        deed = replace(deed, rule=None if wish.longer_than is not None else self._drafted(deed, rule_life))
        if deed.rule is None and not ids:
            return [], []
        return revoker.save_selected(deed.drafts(ids), deed.rule, deed.note(ids), ladder=deed.ladder)

    def _late(self, deed: _Deed, targets: tuple[str, ...] | None, timeout: float) -> list[str]:
        """What matches and began to run after the selection was made. The rule alone would stop it at its checkpoint only, and
        without a verdict."""
        wish = replace(deed.selection.wish, is_past=True)  # without a time of sending it may be of after the cut-off
        found = Gathering(wish)
        with suppress(BrokerError):
            found.of_workers(
                self._sender.ask([Select(wish.selector, wish.before)], targets, timeouts.SETTLE_SHARE * timeout)
            )
        known = set(deed.selection.ids)
        return [task_id for task_id in found.selection().ids if task_id not in known]

    def undo_rules(
        self,
        *,
        key: str | None = None,
        request: str | None = None,
        reason: str | None = None,
        requested_by: str | None = None,
        timeout: float | None = None,
        dry_run: bool = False,
    ) -> UndoneRules:
        """Take back the live rule of that key, or those that the command with that request id has stored: they strike nothing
        from then on. What is recorded stays so. Raises :class:`~stem_kombu.errors.RecordConflict` when another client was
        quicker, and then nothing of that rule was changed."""
        began, timeout = self._clock.monotonic(), self._timeout(timeout)
        found = [
            rule
            for rule in self.places.in_time(self.live_rules, timeout, stores=False)
            if key == rule.key or (request is not None and request == rule.request_id)
        ]
        if dry_run or not found:
            return UndoneRules(tuple(found))
        end = partial(self._ended, found, requested_by or self._requester, reason)
        ended = self.places.in_time(end, self.left(began, timeout))
        try:
            told = self._sender.ask([Rules(tuple(ended))], None, self.left(began, timeout))
        except BrokerError:
            return UndoneRules(tuple(ended), (), is_told=False)
        answered = {reply.worker for reply in told.replies if reply.error is None}
        others = {reply.worker for reply in told.replies}.union(told.silent) - answered
        return UndoneRules(tuple(ended), tuple(sorted(others)))

    def _ended(self, found: Sequence[Rule], requester: str, reason: str | None) -> list[Rule]:
        ended, keyring = list[Rule](), self._trust.keyring
        for rule in found:
            over = replace(rule, over=True, proof=None)
            over = over if keyring is None else signed_rule(over, keyring)
            note = audit.Note("undo", {"rule": rule.key, "version": rule.version}, requester, reason)
            change = Change(records=[draft_of(over, replaces=rule.version)])
            ended += rules_of(self.auditor().change(change, note).changed.records, rule.namespace, self._trust)
        return ended

    def save_stamped(self, drafts: Sequence[StampDraft]) -> list[Rule]:
        """Store rules about stamps of Celery's, and tell no worker. See :mod:`stem_kombu.control.stamped_rules`."""
        return save_stamped(drafts, self.revoker(), self.places.revoke_store(), self.settings.namespace, self._trust)

    def live_rules(self) -> list[Rule]:
        """The rules that count now."""
        store, namespace = self.places.revoke_store(), self.settings.namespace
        if not store.keeps_records:
            return []
        now = store.now()
        records = store.records_since(namespace, 0, [PLACE])
        return [rule for rule in rules_of(records, namespace, self._trust) if rule.is_live(now)]

    def _drafted(self, deed: _Deed, life: float | None) -> Rule | None:
        store, wish, waiting = self.places.revoke_store(), deed.selection.wish, deed.selection.waiting
        if not store.keeps_records:
            if waiting is None:
                raise ConfigurationError(
                    f"revoke store {store.url} keeps no rules, and the broker can't be searched for waiting messages",
                    hint="use Redis, PostgreSQL, SQLite or a file as the revoke store",
                )
            return None
        if wish.undated and (life is None or life > LONGEST_UNDATED):
            raise ConfigurationError(
                "a rule that matches tasks without a time of sending needs a life of at most 1 hour",
                hint="add --for 15m: such a rule can't distinguish tasks that are sent tomorrow",
            )
        if len(self.live_rules()) >= MOST_LIVE:
            raise ConfigurationError(
                f"{MOST_LIVE} rules are live in namespace {self.settings.namespace!r}, and no more are kept",
                hint="take some back: stem revokes rules, stem revokes undo --rule KEY",
            )
        now = store.now()
        ends = now + timedelta(
            seconds=timeouts.RULE_LIFE if life is None else checked_duration(life, name="life of the rule")
        )
        rule = deed.new_rule(self.settings.namespace, now, ends)
        return rule if self._trust.keyring is None else signed_rule(rule, self._trust.keyring)


def _obedience(report: Report, rule: Rule) -> tuple[tuple[str, ...], tuple[str, ...]]:
    obeyed = [reply.worker for reply in report.replies if rule.version in reply.payload.get("applied", ())]
    others = {reply.worker for reply in report.replies}.union(report.silent).difference(obeyed)
    return tuple(obeyed), tuple(sorted(others))
