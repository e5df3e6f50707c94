"""What became of a change, as a second entry in the audit: how many workers were expected, which were silent, which verdicts.

A revoke that does not wait has no such entry: its outcome is not known when it returns, and it costs one write to the store.
"""

from __future__ import annotations

from collections import Counter

from stem_kombu.control.audit import Note
from stem_kombu.control.client.reports import Report, RevokeReport

#: Worker ids that an entry names; the others are counted.
_MOST_NAMED = 100


def outcome_note(action: str, report: Report, requester: str | None, reason: str | None, request_id: str) -> Note:
    """The entry about the workers' answers to a change; ``request_id`` is that of the entry of the change itself."""
    outcome: dict[str, object] = {
        "expected": len(report.expected),
        "answered": len(report.replies),
        "failed": len(report.failed),
        "silent": list(report.silent[:_MOST_NAMED]),
    }
    if isinstance(report, RevokeReport):
        outcome["broadcast"] = report.broadcast
        if report.verdicts is not None:
            outcome["verdicts"] = dict(Counter(one.verdict.value for one in report.verdicts))
    return Note(action, {}, requester, reason, None, {"outcome": outcome}, request_id)


def counted_note(action: str, requester: str | None, reason: str | None, request_id: str, **counts: int) -> Note:
    """The entry about a change that no worker answers, such as a purge."""
    return Note(action, {}, requester, reason, None, {"outcome": dict(counts)}, request_id)
