"""Whether a PostgreSQL server can keep what Stem stores there: its state and settings."""

from __future__ import annotations

from datetime import datetime, timezone

from stem_kombu.clock import SYSTEM
from stem_kombu.drivers.conditions import nearly_full, skew
from stem_kombu.drivers.postgres_session import PostgresSession

_FACTS = """SELECT pg_is_in_recovery(), current_setting('fsync'), current_setting('synchronous_commit'),
    current_setting('full_page_writes'), current_setting('max_connections')::integer, clock_timestamp(),
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')"""


def warnings(session: PostgresSession, keeps: str) -> list[str]:
    """A sentence for each setting that threatens what the server ``keeps`` (say, ``revocations``). Raises what a read raises."""
    before = SYSTEM.utcnow()
    ((standby, fsync, commit, pages, most, now, used),) = session.rows(_FACTS)
    found = skew(_aware(now), before, SYSTEM.utcnow())
    if session.is_pooled():
        found.append(
            "a connection pooler is in front of the server: the guarantees are the same, but the server can't notify workers of "
            "commands, so they poll for them; monitor the pooler's connections, not the server's"
        )
    if standby:
        found.append("the server is a standby, which takes no writes: give the address of the primary")
    if fsync == "off":
        found.append(f"fsync is off: a crash of its machine can lose or corrupt all {keeps}")
    if commit == "off":
        found.append(
            f"synchronous_commit is off: a crash of the server loses the latest {keeps}, though it confirmed them"
        )
    if pages == "off":
        found.append(f"full_page_writes is off: a crash of its machine can corrupt the {keeps}")
    return found + nearly_full(used, most, "connections", "raise max_connections, or put a pooler in front")


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
