"""Exit codes, the same in text and in JSON (spec/cli.md §5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stem_kombu.control.client.reports import Report
    from stem_kombu.errors import StemError

OK = 0
NO = 1  # it ran, and the answer is no
USAGE = 2
PARTIAL = 3
NOTHING_MATCHED = 4
REFUSED = 5
NOBODY_ANSWERED = 69
UNREACHABLE = 74
OUT_OF_TIME = 124
INTERRUPTED = 130
BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


def of_report(report: Report) -> int:
    """The code for a command's report."""
    if getattr(report, "broadcast", True) is False:
        return PARTIAL
    refused = any(reply.error is not None and reply.error.code in ("refused", "stale") for reply in report.replies)
    if refused or any(reply.payload.get("refused") for reply in report.replies):
        return REFUSED
    if report.untrusted and (report.silent or not report.replies):
        return REFUSED  # a worker answered, and its signature could not be verified
    if not report.replies:
        named = set(report.unknown)
        return NOTHING_MATCHED if named and named >= set(report.expected) else NOBODY_ANSWERED
    if report.failed or report.conflicts:
        return NO
    lacks_entry = report.audited is False
    return PARTIAL if report.silent or lacks_entry or not getattr(report, "durable", True) else OK


def of_error(error: StemError) -> int:
    """The code for a command that ends with this error."""
    from stem_kombu.errors import BrokerError, ConfigurationError, ControlError, StoreError

    if isinstance(error, ConfigurationError):
        return USAGE
    if isinstance(error, (StoreError, BrokerError)):
        return UNREACHABLE
    return REFUSED if isinstance(error, ControlError) and error.code == "refused" else NO
