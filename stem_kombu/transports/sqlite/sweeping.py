"""Removing what the dead left and what ran out: leases, consumers, queues, messages."""

from __future__ import annotations

import logging
from functools import partial

from stem_kombu.transports.sqlite import messages, topology
from stem_kombu.transports.sqlite import owner_locks as owners
from stem_kombu.transports.sqlite.database import Database
from stem_kombu.transports.sqlite.owner_locks import OwnerLocks

logger = logging.getLogger(__name__)


def sweep(database: Database, locks: OwnerLocks, now: float, *, lapsed: bool) -> bool:
    """Whether anything was removed or given back.

    Dead owners lose everything at once, expired queues and messages go; with ``lapsed`` also the leases of owners
    that live but did not renew in time. Looks first, and becomes a writer only when there is something to do.
    """
    dead = database.query(partial(owners.dead, locks=locks, now=now))
    if not dead and not _any_litter(database, now, lapsed):
        return False
    with database.write() as sql:
        for owner_id in dead:
            owners.forget(sql, owner_id, now)
        topology.delete_expired_queues(sql, now)
        messages.delete_expired(sql, now)
        returned = messages.give_back_lapsed(sql, now) if lapsed else 0
    if dead:
        logger.info("embedded broker %s: gave back the messages of %d dead connections", database.path, len(dead))
    if returned:
        logger.warning(
            "embedded broker %s: gave back %d messages whose owners live but did not renew in time",
            database.path,
            returned,
        )
    return True


def _any_litter(database: Database, now: float, lapsed: bool) -> bool:
    parts = [topology.EXPIRED_QUEUES, messages.EXPIRED_MESSAGES, *([messages.LAPSED] if lapsed else [])]
    question = "SELECT " + " OR ".join(f"EXISTS ({part})" for part in parts)
    return bool(database.read(question, {"now": now})[0][0])
