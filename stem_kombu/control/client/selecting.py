"""Revoking tasks by what they are: preview, then the deed, which runs the same selection (G29, G30).

Tasks that can be found, at workers and in queues that can be searched, are revoked by their ids. A rule revokes the rest of what
was sent before the cut-off: what waits in a broker that can't be searched, and what is on its way just now.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from stem_kombu.clock import isoformat
from stem_kombu.control import audit
from stem_kombu.control.client.client import SETTLE_LONGEST, SETTLE_SHARE, ControlClient
from stem_kombu.control.client.command_request import checked_targets, default_requester
from stem_kombu.control.client.reports import Report, RevokeReport
from stem_kombu.control.client.selection import Gathering, Selection, Wish
from stem_kombu.control.protocol.messages import Rules, Select
from stem_kombu.control.rule_records import draft_of, rules_of
from stem_kombu.durations import checked_duration
from stem_kombu.errors import BrokerError, ConfigurationError
from stem_kombu.revocation import RevocationDraft
from stem_kombu.rule import LIFE, LONGEST_UNDATED, MOST_LIVE, PLACE, Rule
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

    def to_dict(self) -> dict[str, Any]:
        report = self.report
        return {
            "preview": self.selection.to_dict(),
            "rule": None if self.rule is None else self.rule.to_record(),
            "request_id": self.request_id,
            "rule_applied_by": list(self.obeyed_by),
            "rule_not_applied_by": list(self.not_obeyed_by),
            "revoked": 0 if report is None else len(report.stored),
            "broadcast": report is None or report.broadcast,
            "complete": (report is None or report.complete) and not self.not_obeyed_by,
        }


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
    ) -> Wish:
        """The wish with its cut-off: the store's now unless an earlier time is given. Raises
        :class:`~stem_kombu.errors.ConfigurationError` for a selector without a condition and for a time ahead."""
        if not selector and longer_than is None:
            raise ConfigurationError("there is no condition to select tasks by")
        if longer_than is not None:
            checked_duration(longer_than, name="longer_than")
        now = self._places.revoke_store().now()
        if enqueued_before is not None and enqueued_before > now:
            raise ConfigurationError(
                f"enqueued_before {isoformat(enqueued_before)} lies ahead of the store's now, {isoformat(now)}",
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
        workers: Sequence[str] | None = None,
        timeout: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> SelectedReport:
        """Store the revocations of the selection's ids, the rule and the entry in the audit, all or nothing, then tell the
        workers. ``rule_life``: seconds until the rule expires (default: 7 days, without a time of sending at most 1 hour)."""
        targets, timeout = checked_targets(workers), self._timeout(timeout)
        who = requested_by or default_requester()
        began = self._clock.monotonic()
        request_id = secrets.token_hex(16)
        rule = None
        if selection.wish.longer_than is None:
            rule = self._drafted(selection, terminate, reason, who, rule_life, request_id)
        drafts = [RevocationDraft(task_id, terminate, reason, who, expires_in) for task_id in selection.ids]
        if rule is None and not drafts:
            return SelectedReport(selection)
        note = audit.Note(
            "revoke",
            {
                **audit.tasks_target(selection.ids, terminate=terminate),
                "selector": selection.wish.selector.to_record(),
                "enqueued_before": isoformat(selection.wish.before),
                "rule": None if rule is None else rule.key,
                "preview": selection.counts(),
            },
            who,
            reason,
            request_id=request_id,
        )
        stored, rules = self.revoker(timeout).save_selected(drafts, rule, note)
        stored_rule = rules[0] if rules else None
        obeyed: tuple[str, ...] = ()
        not_obeyed: tuple[str, ...] = ()
        try:
            if stored_rule is not None:
                answered = self._ask_orders([Rules((stored_rule,))], targets, timeout)
                obeyed, not_obeyed = _obedience(answered, stored_rule)
        except BrokerError as error:
            elapsed = self._clock.monotonic() - began
            unsaid = Report("revoke", self.settings.namespace, request_id, timeout, elapsed, (), (), ())
            report = RevokeReport.of(unsaid, stored, broker_error=error)
            return SelectedReport(selection, report, stored_rule, request_id=request_id)
        settle = min(SETTLE_LONGEST, SETTLE_SHARE * timeout) if terminate else 0.0
        told = (
            self.announce(stored, request_id, targets, timeout, settle=settle, began=began, progress=progress)
            if stored
            else None
        )
        return SelectedReport(selection, told, stored_rule, obeyed, not_obeyed, request_id)

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
        found = [
            rule
            for rule in self.live_rules()
            if key == rule.key or (request is not None and request == rule.request_id)
        ]
        if dry_run or not found:
            return UndoneRules(tuple(found))
        who, keyring = requested_by or default_requester(), self._trust.keyring
        ended: list[Rule] = []
        for rule in found:
            over = replace(rule, over=True, proof=None)
            over = over if keyring is None else signed_rule(over, keyring)
            note = audit.Note("undo", {"rule": rule.key, "version": rule.version}, who, reason)
            change = Change(records=[draft_of(over, replaces=rule.version)])
            ended += rules_of(self.auditor().change(change, note).changed.records, rule.namespace, self._trust)
        try:
            told = self._ask_orders([Rules(tuple(ended))], None, self._timeout(timeout))
        except BrokerError:
            return UndoneRules(tuple(ended), (), is_told=False)
        answered = {reply.worker for reply in told.replies if reply.error is None}
        others = {reply.worker for reply in told.replies}.union(told.silent) - answered
        return UndoneRules(tuple(ended), tuple(sorted(others)))

    def live_rules(self) -> list[Rule]:
        """The rules that count now."""
        store, namespace = self._places.revoke_store(), self.settings.namespace
        if not store.keeps_records:
            return []
        now = store.now()
        records = store.records_since(namespace, 0, [PLACE])
        return [rule for rule in rules_of(records, namespace, self._trust) if rule.is_live(now)]

    def _drafted(
        self, selection: Selection, terminate: bool, reason: str | None, who: str, life: float | None, request_id: str
    ) -> Rule | None:
        store, wish = self._places.revoke_store(), selection.wish
        if not store.keeps_records:
            if selection.waiting is None:
                raise ConfigurationError(
                    f"revoke store {store.url} keeps no rules, and the broker can't be searched for what waits",
                    hint="use Redis, PostgreSQL, SQLite or a file as the revoke store",
                )
            return None
        if wish.undated and (life is None or life > LONGEST_UNDATED):
            raise ConfigurationError(
                "a rule that matches tasks without a time of sending needs a life of at most 1 hour",
                hint="add --for 15m: such a rule can't tell the tasks of tomorrow from those of today",
            )
        if len(self.live_rules()) >= MOST_LIVE:
            raise ConfigurationError(
                f"{MOST_LIVE} rules are live in namespace {self.settings.namespace!r}, and no more are kept",
                hint="take some back: stem revokes rules, stem revokes undo --rule KEY",
            )
        now = store.now()
        ends = now + timedelta(seconds=LIFE if life is None else checked_duration(life, name="life of the rule"))
        rule = Rule(
            self.settings.namespace,
            str(uuid.uuid4()),
            0,
            now,
            ends,
            wish.selector,
            wish.before,
            terminate,
            wish.undated,
            reason,
            who,
            selection.counts(),
            request_id,
        )
        return rule if self._trust.keyring is None else signed_rule(rule, self._trust.keyring)


def _obedience(report: Report, rule: Rule) -> tuple[tuple[str, ...], tuple[str, ...]]:
    obeyed = [reply.worker for reply in report.replies if rule.version in reply.payload.get("applied", ())]
    others = {reply.worker for reply in report.replies}.union(report.silent).difference(obeyed)
    return tuple(obeyed), tuple(sorted(others))
