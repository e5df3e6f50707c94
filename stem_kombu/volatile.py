"""Fleets without a place for revocations: Celery's, where nothing that could hold them is configured.

Such a fleet goes on as Celery's own does: revocations are in the memory of the workers that are up, and in no store.
"""

from __future__ import annotations

from stem_kombu.urls import POSTGRES_SCHEMES, REDIS_SCHEMES, SQLITE_SCHEMES, scheme_of
from stem_kombu.variables import Source

#: The name of the :class:`~stem_kombu.variables.Source` that stands for no place at all.
NO_STORE = "no revoke store"
NOWHERE = Source("none://", NO_STORE)
#: What such a fleet lacks, and how it gets it.
NOT_DURABLE = "no revoke store is configured: revocations last as long as the workers that are up"
HOW_DURABLE = "set STEM_REVOKE_STORE_URL to a redis://, postgresql:// or sqlite:// URL"
#: Plug-ins for revoke stores register here.
ENTRY_POINT_GROUP = "stem_kombu.revoke_stores"
#: The schemes of revoke stores that are built in.
BUILT_IN = (*REDIS_SCHEMES, *POSTGRES_SCHEMES, *SQLITE_SCHEMES, "file", "memory")


def can_hold_revocations(url: str) -> bool:
    """Whether the URL's scheme is that of a revoke store, plug-ins included. A bare path is a file."""
    scheme = scheme_of(url)
    if scheme is None or scheme in BUILT_IN:
        return True
    from importlib.metadata import entry_points  # most of what a child would load for this module

    return any(point.name.lower() == scheme for point in entry_points(group=ENTRY_POINT_GROUP))
