"""Times of many records that are the same: written and read once, as all revocations of a batch have the same two."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from stem_kombu.clock import isoformat
from stem_kombu.fields import moment

_KEPT = 64

#: As :func:`stem_kombu.clock.isoformat`.
spelled = lru_cache(maxsize=_KEPT)(isoformat)
_read = lru_cache(maxsize=_KEPT)(moment)


def repeated_moment(value: object, name: str) -> datetime:
    """As :func:`stem_kombu.fields.moment`."""
    return _read(value, name) if type(value) is str else moment(value, name)
