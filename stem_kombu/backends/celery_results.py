"""Results in the form of Celery's Redis backend, for the ``AsyncResult`` of an unmodified Celery client.

One key a task, ``celery-task-meta-<id>``, that holds JSON and expires, and a message on the channel of the same name
whenever it changes. Source of the shape: ``celery.backends.base`` and ``celery.backends.redis`` of Celery 5.7.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator, Sequence

from stem_kombu import timeouts
from stem_kombu.clock import epoch_us, isoformat
from stem_kombu.drivers.redis import RedisDatabase, RedisScript
from stem_kombu.errors import ConfigurationError
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.redaction import mask_url
from stem_kombu.settings import Source, TlsSettings
from stem_kombu.task import TaskMessage
from stem_kombu.urls import REDIS_SCHEMES, scheme_of

_STATES = {
    TaskState.QUEUED: "PENDING",
    TaskState.RUNNING: "STARTED",
    TaskState.RETRYING: "RETRY",
    TaskState.SUCCEEDED: "SUCCESS",
    TaskState.FAILED: "FAILURE",
    TaskState.CANCELLED: "REVOKED",
}

# KEYS: one a task. ARGV: milliseconds to live, then one JSON text a key. What ended stays as it is (G10): a late message
# of another worker must not take a result back that a client may have read. But an id that is sent again later has a new
# life: ``stem_sent``, which Celery passes over, is when it was sent, in microseconds since the epoch.
_STORE = RedisScript(
    """
local ended = { SUCCESS = true, FAILURE = true, REVOKED = true }
for i, key in ipairs(KEYS) do
  local held = redis.call('GET', key)
  local readable, meta = false, nil
  if held then readable, meta = pcall(cjson.decode, held) end
  local final = readable and type(meta) == 'table' and ended[meta['status']]
  if final then
    local _, new = pcall(cjson.decode, ARGV[i + 1])
    local sent, before = type(new) == 'table' and tonumber(new['stem_sent']), tonumber(meta['stem_sent'])
    final = not (sent and before and sent > before)
  end
  if not final then
    redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1])
    redis.call('PUBLISH', key, ARGV[i + 1])
  end
end
return #KEYS
"""
)


def open_celery_results(source: Source | None, tls: TlsSettings) -> CeleryResults | None:
    """The results for Celery's clients, ``None`` when they are switched off; nothing is connected yet."""
    return None if source is None else CeleryResults(source, tls=tls)


class CeleryResults:
    """Writes what became of the tasks that Celery applications sent. Thread-safe; connects on first use; reconnects."""

    def __init__(
        self, source: Source, *, tls: TlsSettings | None = None, result_ttl: float = timeouts.RESULT_TTL
    ) -> None:
        if scheme_of(source.value) not in REDIS_SCHEMES:
            raise ConfigurationError(
                f"{source.name}: {mask_url(source.value)!r} can't hold results for Celery's clients",
                hint="give the redis:// URL that is their result_backend, or off",
            )
        self._database = RedisDatabase(source.value, name=source.name, tls=tls, purpose="results for Celery")
        if self._database.prefix and self._database.prefix[-1] not in ":_-.":
            self._database.prefix += "_"  # as Celery does with its result_backend_transport_options
        self.url = self._database.url
        self._ttl_ms = max(1, int(result_ttl * 1000))

    def record(self, ended: Sequence[tuple[TaskMessage, TaskRecord]]) -> None:
        """Write each record for whom its sender may be waiting for; raises
        :class:`~stem_kombu.errors.StoreUnavailable` and then may be offered the same again."""
        metas = [meta for message, record in ended for meta in _metas(message, record)]
        if metas:
            keys = [f"celery-task-meta-{meta['task_id']}" for meta in metas]
            self._database.evaluate(_STORE, keys, [self._ttl_ms, *(json.dumps(meta) for meta in metas)])

    def ping(self) -> None:
        self._database.command("ping")

    def close(self) -> None:
        self._database.close()


def _metas(message: TaskMessage, record: TaskRecord) -> Iterator[dict[str, object]]:
    origin = message.celery
    if origin is None:
        return
    status = _STATES[record.state]
    meta: dict[str, object] = {
        "status": status,
        "result": _result(record),
        "traceback": None if record.error is None else record.error.traceback,
        "children": [],
        "date_done": isoformat(record.ended_at) if record.state.is_terminal and record.ended_at else None,
        "task_id": record.task_id,
    }
    if record.enqueued_at is not None:
        meta["stem_sent"] = epoch_us(record.enqueued_at)
    if origin.parent_id is not None:
        meta["parent_id"] = origin.parent_id
    if origin.group is not None:
        meta["group_id"] = origin.group
    # As in Celery, a failure is worth a key even when no client asked for the result.
    if not origin.ignore_result or record.state is TaskState.FAILED:
        yield meta
    if origin.canvas and record.state.is_terminal:
        for task_id in origin.dependents:
            yield {**meta, "task_id": task_id, "parent_id": record.task_id}


def _result(record: TaskRecord) -> object:
    if record.state is TaskState.SUCCEEDED:
        return record.result
    if record.state is TaskState.RUNNING:
        return {"pid": None, "hostname": record.worker}
    if record.state is TaskState.CANCELLED and record.revocation is not None:
        by, reason = record.revocation.requested_by, record.revocation.reason
        why = "revoked" + (f" by {by}" if by else "") + (f": {reason}" if reason else "")
        return {"exc_type": "TaskRevokedError", "exc_message": [why], "exc_module": "celery.exceptions"}
    error = record.error
    if error is None:
        return None
    if record.state is TaskState.CANCELLED:  # expired before it could start, which Celery calls revoked as well
        return {"exc_type": "TaskRevokedError", "exc_message": ["expired"], "exc_module": "celery.exceptions"}
    # An exception of the worker's application is made anew by its name where the client can't import it; so it gets
    # no module, unless it is one of Python's own.
    own = getattr(builtins, error.type, None)
    known = isinstance(own, type) and issubclass(own, Exception)
    return {"exc_type": error.type, "exc_message": [error.message], "exc_module": "builtins" if known else None}
