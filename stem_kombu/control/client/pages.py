"""Answers that come in pages: the revocations that a worker holds, which no message is long enough for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from stem_kombu.control.client.reports import Report, WorkerReply
from stem_kombu.control.protocol.messages import Inspect

#: Asks workers within so many seconds; the report may be without an answer.
Ask = Callable[[Inspect, Sequence[str], float], Report]


def completed(report: Report, limit: int, ask: Ask, left: Callable[[], float]) -> Report:
    """The report of an ``inspect``, with the pages that follow each worker's first, up to ``limit`` revocations.
    ``left()``: seconds until the deadline.

    Where a page does not come in time, ``revoked_truncated`` stays true and a note says so. A worker before pages were
    known has none.
    """
    notes: list[str] = []
    replies = tuple(_whole(reply, limit, ask, left, notes) for reply in report.replies)
    return replace(report, replies=replies, notes=(*report.notes, *notes))


def _whole(reply: WorkerReply, limit: int, ask: Ask, left: Callable[[], float], notes: list[str]) -> WorkerReply:
    payload = dict(reply.payload)
    records = list(payload.get("revoked", ()))
    after = payload.pop("revoked_next", None)
    while after is not None and len(records) < limit:
        page = None
        if (seconds := left()) > 0:
            answers = ask(Inspect(True, limit - len(records), after), [reply.worker], max(0.01, seconds)).replies
            page = next((one.payload for one in answers if one.worker == reply.worker and one.error is None), None)
        if page is None:
            notes.append(f"worker {reply.worker}: only {len(records)} revocations came in time (raise --timeout)")
            break
        records += page.get("revoked", ())
        payload["revoked_truncated"], after = page.get("revoked_truncated", False), page.get("revoked_next")
    if "revoked" in payload:
        payload["revoked"] = records
    return replace(reply, payload=payload)
