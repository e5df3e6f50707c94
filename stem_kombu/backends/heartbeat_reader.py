"""Heartbeats as the text that rosters keep, and back; what can't be read is left out and told once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from operator import attrgetter

from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.clock import from_epoch_us

logger = logging.getLogger(__name__)

#: Unreadable entries that are remembered as told; with more of them some are told again.
_TOLD_LIMIT = 1000
#: What reading something that is no heartbeat can raise.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def beat_text(heartbeat: Heartbeat) -> str:
    """The heartbeat as JSON on one line, in ASCII, without the timestamp, which is the roster's to give."""
    fields = heartbeat.to_record()
    del fields["timestamp"]
    return json.dumps(fields, separators=(",", ":"))


class BeatReader:
    """Reads the entries of one roster, which ``where`` names in the log."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._told: set[tuple[str, str]] = set()

    def all(
        self, namespace: str, entries: Iterable[tuple[str, str | bytes, int]]
    ) -> tuple[tuple[Heartbeat, ...], tuple[str, ...]]:
        """The heartbeats of ``(worker, text, stamp in µs)``, sorted by worker, and the workers whose entries hold none."""
        found, unreadable = [], []
        for worker, text, stamped_us in entries:
            beat = self.one(namespace, worker, text, stamped_us)
            if beat is None:
                unreadable.append(worker)
            else:
                found.append(beat)
        return tuple(sorted(found, key=attrgetter("worker"))), tuple(unreadable)

    def one(self, namespace: str, worker: str, text: str | bytes, stamped_us: int) -> Heartbeat | None:
        """The heartbeat of an entry, or ``None`` when it holds none (told in the log)."""
        try:
            return stamped(json.loads(text), stamped_us)
        except UNREADABLE as error:
            self.tell(namespace, worker, error)
            return None

    def tell(self, namespace: str, worker: str, error: Exception) -> None:
        """Say once in the log that the worker's entry is no heartbeat."""
        if (namespace, worker) in self._told:
            return
        if len(self._told) >= _TOLD_LIMIT:
            self._told.clear()
        self._told.add((namespace, worker))
        logger.warning(
            "%s: the entry of worker %r in namespace %r is not a heartbeat, and is ignored: %r",
            self._where,
            worker,
            namespace,
            error,
            extra={"worker": worker, "namespace": namespace},
        )


def stamped(fields: object, stamped_us: int) -> Heartbeat:
    """The heartbeat of parsed JSON, with the roster's time; raises ``ValueError`` and the like when it isn't one."""
    return Heartbeat.from_record(fields, timestamp=from_epoch_us(stamped_us))
