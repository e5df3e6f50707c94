"""Records and heartbeats as the text that databases keep, and back, with the place named when it can't be read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import replace

from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.clock import from_epoch_us
from stem_kombu.errors import StoreCorrupt
from stem_kombu.outcome import TaskRecord

logger = logging.getLogger(__name__)

#: Seconds for which a terminal record is kept, and one whose task has not ended.
RESULT_TTL = 7 * 86_400.0
UNFINISHED_TTL = 90 * 86_400.0


def task_text(record: TaskRecord) -> str:
    """The record as JSON; ASCII only, since PostgreSQL's text can't hold everything that JSON strings can."""
    return json.dumps(record.to_record(), separators=(",", ":"))


def task_record(text: str | bytes, where: str) -> TaskRecord:
    """The record of :func:`task_text`; raises :class:`StoreCorrupt` naming ``where``."""
    try:
        return TaskRecord.from_record(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreCorrupt(f"{where} can't be read: {error!r}", hint="delete it; the task's state is lost") from error


def ttl(record: TaskRecord, result_ttl: float) -> float:
    """Seconds for which the record is kept."""
    return result_ttl if record.state.is_terminal else max(result_ttl, UNFINISHED_TTL)


def beat_text(heartbeat: Heartbeat) -> str:
    """The heartbeat as JSON, without the timestamp, which is the roster's to give."""
    return json.dumps(replace(heartbeat, timestamp=None).to_record(), separators=(",", ":"))


def heartbeat(text: str | bytes, stamped_us: int) -> Heartbeat:
    """The heartbeat of :func:`beat_text`; raises ``ValueError`` and the like when it isn't one."""
    return replace(Heartbeat.from_record(json.loads(text)), timestamp=from_epoch_us(stamped_us))


def heartbeats(entries: Iterable[tuple[str, str | bytes, int]], where: str) -> list[Heartbeat]:
    """The heartbeats of ``(worker, text, stamped_us)``. One that can't be read is logged and left out: it must not hide the
    others."""
    found = []
    for worker, text, stamped_us in entries:
        try:
            found.append(heartbeat(text, stamped_us))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            logger.warning("%s: the heartbeat of worker %r can't be read: %r", where, worker, error)
    return found
