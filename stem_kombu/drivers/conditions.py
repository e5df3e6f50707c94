"""What a server's state and settings mean for what Stem promises: limits and sentences that all drivers share."""

from __future__ import annotations

from datetime import datetime, timedelta

from stem_kombu import timeouts

#: Share of memory or connections in use from which on a server counts as nearly full.
NEARLY_FULL = 0.9


def skew(server: datetime, before: datetime, after: datetime) -> list[str]:
    """A sentence if the server's clock is off by more than ``timeouts.MOST_CLOCK_SKEW``; it was read between ``before`` and
    ``after``, which are this machine's times. All three are aware."""
    if (
        before - timedelta(seconds=timeouts.MOST_CLOCK_SKEW)
        <= server
        <= after + timedelta(seconds=timeouts.MOST_CLOCK_SKEW)
    ):
        return []
    seconds = (server - (before if server < before else after)).total_seconds()
    where = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} this machine's"
    return [f"its clock is {where}: synchronise both (NTP), since etas, expiries and leases compare them"]


def nearly_full(used: float, limit: float, what: str, advice: str) -> list[str]:
    """A sentence if ``used`` of ``limit`` is more than :data:`NEARLY_FULL`; a ``limit`` of 0 means that there is none."""
    if limit <= 0 or used <= NEARLY_FULL * limit:
        return []
    return [f"{used / limit:.0%} of its {what} are in use ({used:.0f} of {limit:.0f}): {advice}"]
