"""What became of revoked tasks, as ``stem worker revoke`` prints it, and the exit code that follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stem_kombu.control.client.reports import RevokeReport
from stem_kombu.control.client.task_standings import Standing, TaskStanding
from stem_kombu.control.client.verdicts import TaskVerdict, Verdict
from stem_kombu_cli import exit_codes
from stem_kombu_cli.render import shown, span

#: Lines of one kind that are printed; the rest is a count.
_MOST_LINES = 20

_CODES = {
    Verdict.NEVER_STARTED: exit_codes.OK,
    Verdict.WILL_NOT_START: exit_codes.OK,
    Verdict.STOPPED: exit_codes.OK,
    Verdict.KILLED: exit_codes.OK,
    Verdict.FINISHED_FIRST: exit_codes.NO,
    Verdict.UNSTOPPABLE: exit_codes.NO,
    Verdict.RUNNING: exit_codes.OUT_OF_TIME,
    Verdict.LOST: exit_codes.PARTIAL,
    Verdict.UNKNOWN: exit_codes.NOTHING_MATCHED,
}
#: Of several verdicts the code that comes first here.
_FIRST = (exit_codes.OUT_OF_TIME, exit_codes.NO, exit_codes.PARTIAL, exit_codes.NOTHING_MATCHED)


def code_of_verdicts(report: RevokeReport, verdicts: Sequence[TaskVerdict]) -> int:
    """The code of what became of the tasks, unless workers refused; where that is 0, the code of who has not answered."""
    answers = exit_codes.of_report(report)
    if answers == exit_codes.REFUSED or unsupported_of(report):
        return exit_codes.REFUSED
    found = {_CODES[one.verdict] for one in verdicts}
    worst = next((code for code in _FIRST if code in found), exit_codes.OK)
    if worst != exit_codes.OK or answers in (exit_codes.OK, exit_codes.NOBODY_ANSWERED):
        return worst or answers
    return exit_codes.PARTIAL


def code_of_standings(report: RevokeReport, known: Sequence[TaskStanding], *, terminate: bool) -> int:
    """The code of the answers or, where that is 0, of what is known of the tasks."""
    code = exit_codes.of_report(report)
    if code != exit_codes.OK or unsupported_of(report):
        return code or exit_codes.REFUSED
    found = {one.standing for one in known}
    if Standing.FINISHED_FIRST in found:
        return exit_codes.NO
    if terminate and Standing.RUNNING in found:
        return exit_codes.PARTIAL
    return exit_codes.NOTHING_MATCHED if terminate and Standing.UNKNOWN in found else exit_codes.OK


def unsupported_of(report: RevokeReport) -> dict[str, list[str]]:
    """The workers that can't climb the ladder that was asked for, and what runs there."""
    told = {reply.worker: reply.payload.get("unsupported") for reply in report.replies}
    return {worker: [str(one) for one in ids] for worker, ids in told.items() if isinstance(ids, list) and ids}


def unsupported_lines(report: RevokeReport) -> Iterator[str]:
    """The same in words, a line a worker."""
    for worker, ids in unsupported_of(report).items():
        yield f"error: worker {worker} can't kill what it runs (a Celery worker): {', '.join(map(shown, ids[:3]))}"


def verdict_lines(verdicts: Sequence[TaskVerdict]) -> Iterator[str]:
    """The verdicts, a line an id."""
    return _lines((one.task_id, *_verdict(one)) for one in verdicts)


def standing_lines(known: Sequence[TaskStanding], *, confirmed: bool) -> Iterator[str]:
    """What is known now, a line an id. ``confirmed``: a worker said that it obeys."""
    return _lines((one.task_id, *_standing(one, confirmed)) for one in known)


def _lines(worded: Iterator[tuple[str, str, str]]) -> Iterator[str]:
    """A line an id; of many ids of one kind the first, and how many more there are."""
    kinds: dict[str, list[str]] = {}
    for task_id, label, rest in worded:
        kinds.setdefault(label, []).append(shown(f"{label}: {task_id}{rest}"))
    for label, lines in kinds.items():
        yield from lines[:_MOST_LINES]
        if len(lines) > _MOST_LINES:
            yield f"{label}: and {len(lines) - _MOST_LINES} more"


def _verdict(one: TaskVerdict) -> tuple[str, str]:
    label = one.verdict.value.replace("-", " ")
    where = f" on {one.worker}" if one.worker else ""
    if one.verdict is Verdict.FINISHED_FIRST:
        return label, f"{where}, {one.state}"
    if one.verdict is Verdict.UNSTOPPABLE:
        return label, f"{where}, a thread that has passed no checkpoint"
    if one.verdict is Verdict.RUNNING:
        ago = "no checkpoint yet" if one.checkpoint_ago is None else f"last checkpoint {span(one.checkpoint_ago)} ago"
        return label, f"{where}, {'its outcome is not recorded yet' if one.state == 'settling' else ago}"
    if one.verdict is Verdict.LOST:
        return label, f", its worker{f' {one.worker}' if one.worker else ''} has ended; whether it stopped is not known"
    if one.verdict is Verdict.UNKNOWN:
        return label, ", no sender recorded it; it will not start if it comes"
    if one.verdict is Verdict.WILL_NOT_START:
        return label, f", {one.state}" if one.state else ", no sender recorded it" if one.seen is False else ""
    if one.verdict is Verdict.NEVER_STARTED:
        return label, f"{where}, attempt {one.attempt}" if (one.attempt or 1) > 1 else where
    steps = f", by SIG{one.steps[-1].how.value.upper()}" if one.steps else ""
    return label, f"{where}{steps}, after {span(one.after)}"


def _standing(one: TaskStanding, confirmed: bool) -> tuple[str, str]:
    where = f" on {one.worker}" if one.worker else ""
    if one.standing is Standing.STOPPED:
        return "terminated", where
    if one.standing is Standing.FINISHED_FIRST:
        return "finished first", f"{where}, {one.state}"
    if one.standing is Standing.RUNNING and one.asked_to_stop:
        return "pending", f"{where}, no checkpoint yet"
    if one.standing is Standing.RUNNING:
        return "running", f"{where}, to its end"
    if one.standing is Standing.CANCELLED:
        return "cancelled", ", as is recorded"
    if one.standing is Standing.UNKNOWN:
        promised = "it will not start if it comes" if confirmed else "no worker has confirmed the revocation"
        return "unknown", f", no sender recorded it; {promised}"
    if not confirmed:
        return "stored", ", no worker has confirmed it"
    if one.seen is None:
        return "will not start", ", no worker that answered runs it"
    return "will not start", f", {one.state}" if one.state else ", no sender recorded it"
