"""Failed tasks that an operator has run again, from the messages that workers have kept of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stem_kombu import chance, timeouts
from stem_kombu.backends.base import Backend
from stem_kombu.backends.failed import FailedMessage
from stem_kombu.backends.registry import open_backend, open_failed_messages
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.control.audit import Note, tasks_target
from stem_kombu.control.auditor import Auditor
from stem_kombu.control.client.command_request import default_requester
from stem_kombu.control.client.outcomes import counted_note
from stem_kombu.control.client.places import settings_of
from stem_kombu.control.verification import Verifier
from stem_kombu.durations import checked_duration
from stem_kombu.errors import BadMessage, BrokerError, ConfigurationError
from stem_kombu.messages.keeping import KeptMessage, again, kept_message, retried_text
from stem_kombu.messages.signatures import task_verifier
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.revocation import Revocation, checked_task_id
from stem_kombu.settings import Settings
from stem_kombu.signing.keyring import Scope, Untrusted
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.task import TaskMessage
from stem_kombu.task_filter import TaskFilter
from stem_kombu.transports.names import checked_queue_name
from stem_kombu.transports.producer import open_producer

if TYPE_CHECKING:
    from stem_kombu.app import Stem

logger = logging.getLogger(__name__)

SCHEMA = "stem.retry/1"
#: Tasks that are sent together.
_TOGETHER = 500


class RetryVerdict(str, Enum):
    """What became of the wish to have a failed task run again."""

    SENT = "sent"
    #: It would be sent (a dry run).
    READY = "ready"
    #: The task is not recorded as failed.
    NOT_FAILED = "not-failed"
    #: No message is kept: it is too old, too large, was pushed out by newer ones, or keeping is switched off.
    NOT_KEPT = "not-kept"
    RETRIED_BEFORE = "retried-before"
    REVOKED = "revoked"
    #: The message that is kept has no valid signature of its sender.
    UNTRUSTED = "untrusted"


@dataclass(frozen=True, slots=True)
class RetriedTask:
    """One failed task. ``new_id`` is that of the task that was made of it, now or before."""

    task_id: str
    verdict: RetryVerdict
    name: str | None = None
    queue: str | None = None
    new_id: str | None = None
    detail: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.task_id,
            "verdict": self.verdict.value,
            "name": self.name,
            "queue": self.queue,
            "new_id": self.new_id,
            "detail": self.detail,
        }


class RetryClient:
    """Retries failed tasks. ``target`` is an application or settings. For one thread at a time.

    Raises :class:`~stem_kombu.errors.ConfigurationError` where there is no result backend,
    :class:`~stem_kombu.errors.StoreUnavailable` and :class:`~stem_kombu.errors.BrokerUnavailable` where one can't be reached.
    """

    def __init__(self, target: Stem | Settings, *, clock: Clock = SYSTEM) -> None:
        self.settings: Settings = settings_of(target)
        source, signing = self.settings.backend, self.settings.signing
        if source is None:
            raise ConfigurationError(
                "there is no result backend that keeps failed tasks",
                hint="set STEM_RESULT_BACKEND_URL, or give --backend, in Python backend=…",
            )
        self._clock = clock
        self.is_audited = True
        self._trust = Verifier.of(signing, clock=clock)
        self._verified = task_verifier(signing, self._trust.keyring)
        self._states: Backend = open_backend(source.value, name=source.name, tls=self.settings.tls)
        self._kept = open_failed_messages(source.value, name=source.name, tls=self.settings.tls)
        self._producer = open_producer(self.settings)
        place = self.settings.revoke_store
        self._store = open_revoke_store(place.value, name=place.name, tls=self.settings.tls)

    def select(self, wanted: TaskFilter) -> Iterator[str]:
        """The ids of tasks whose messages are kept and that were not retried before, by name and queue, and, where worker or
        time are asked for, by their records."""
        for held in self._kept.scan(self.settings.namespace):
            message = self._message(held)
            if message is None or message.raw is None:
                continue
            record = TaskRecord(held.task_id, message.name, TaskState.FAILED, queue=message.queue)
            if wanted.worker is not None or wanted.since is not None:
                record = self._states.get(held.task_id) or record
            if wanted.matches(record):
                yield held.task_id

    def retry(
        self,
        task_ids: Sequence[str],
        *,
        queue: str | None = None,
        delay: float | None = None,
        dry_run: bool = False,
        reason: str | None = None,
        requested_by: str | None = None,
    ) -> list[RetriedTask]:
        """Send each failed task once more, as a task with a new id: to the queue from which it came, or to ``queue``, not
        before ``delay`` seconds. A task that is not sent has a verdict that says why. :attr:`is_audited` is false afterwards
        where the audit has no entry of it."""
        self._trust.require(Scope.OPERATE, "retry tasks")
        target = None if queue is None else checked_queue_name(queue)
        now = self._clock.utcnow()
        eta = None if delay is None else now + timedelta(seconds=checked_duration(delay, name="delay", allow_zero=True))
        found: list[RetriedTask] = []
        wanted = list(map(checked_task_id, dict.fromkeys(task_ids)))
        for start in range(0, len(wanted), _TOGETHER):
            judged = [self._judged(task_id, target, eta) for task_id in wanted[start : start + _TOGETHER]]
            if not dry_run:
                ready = [one.task_id for one, message in judged if message is not None]
                who, request_id = requested_by or default_requester(), chance.token_hex(16)
                target_of = tasks_target(ready, queue=queue)
                audited = bool(ready) and self._audit(Note("retry", target_of, who, reason, request_id=request_id))
                self.is_audited = self.is_audited and (audited or not ready)
                self._send([(one, message) for one, message in judged if message is not None])
                if audited:
                    self._audit(counted_note("retry", who, reason, request_id, sent=len(ready)))
                judged = [(one if message is None else _sent(one, message), message) for one, message in judged]
            found += [one for one, _ in judged]
        return found

    def _audit(self, note: Note) -> bool:
        settings = self.settings
        auditor = Auditor(self._store, settings.namespace, self._trust.keyring, keep=settings.audit_keep)
        return auditor.note(note) is not None

    def close(self) -> None:
        """Let connections go. May be called twice."""
        for place in (self._states, self._kept, self._store, self._producer):
            place.close()

    def __enter__(self) -> RetryClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _judged(self, task_id: str, queue: str | None, eta: datetime | None) -> tuple[RetriedTask, TaskMessage | None]:
        """What is to be said of the task, and what is to be sent for it, if anything is."""
        record = self._states.get(task_id)
        if record is None or record.state is not TaskState.FAILED:
            state = "no sender or worker recorded it" if record is None else f"it is {record.state.value}"
            return RetriedTask(task_id, RetryVerdict.NOT_FAILED, detail=state), None
        held = self._kept.get(self.settings.namespace, task_id)
        kept = None if held is None else self._message(held)
        if kept is None:
            return RetriedTask(task_id, RetryVerdict.NOT_KEPT, record.name, record.queue), None
        if kept.raw is None:
            return RetriedTask(task_id, RetryVerdict.RETRIED_BEFORE, kept.name, kept.queue, kept.retried_as), None
        found = RetriedTask(task_id, RetryVerdict.READY, kept.name, queue or kept.queue)
        revocation = self._revocation(task_id)
        if revocation is not None:
            return replace(found, verdict=RetryVerdict.REVOKED, detail=revocation.reason), None
        try:
            signed = self._verified is not None and self._verified(kept.raw)
        except Untrusted as error:
            return replace(found, verdict=RetryVerdict.UNTRUSTED, detail=str(error)), None
        message = again(
            kept.raw,
            kept.name,
            failed=task_id,
            task_id=chance.uuid_text(),
            queue=queue or kept.queue,
            now=self._clock.utcnow(),
            eta=eta,
            signed=signed,
        )
        return found, message

    def _send(self, judged: Sequence[tuple[RetriedTask, TaskMessage]]) -> None:
        """Send all of them. What the broker has is recorded, and noted as retried, also where it has only some."""
        if not judged:
            return
        try:
            self._producer.send_many([message for _, message in judged])
        except BrokerError as error:
            self._note([(one, message) for one, message in judged if message.task_id not in error.unconfirmed])
            raise
        self._note(judged)

    def _note(self, sent: Sequence[tuple[RetriedTask, TaskMessage]]) -> None:
        notes = [
            FailedMessage(one.task_id, retried_text(message.name, message.queue, message.task_id))
            for one, message in sent
        ]
        self._kept.keep(self.settings.namespace, notes, timeouts.RETRY_NOTE)
        self._states.record(
            [
                TaskRecord(
                    message.task_id,
                    message.name,
                    TaskState.QUEUED,
                    queue=message.queue,
                    enqueued_at=message.enqueued_at,
                    retried_from=one.task_id,
                )
                for one, message in sent
            ]
        )

    def _revocation(self, task_id: str) -> Revocation | None:
        held = self._store.get(self.settings.namespace, task_id)
        if held is None:
            return None
        verified, _ = self._trust.proven([held], self._store.now())
        return verified[0] if verified else None

    @staticmethod
    def _message(held: FailedMessage) -> KeptMessage | None:
        try:
            return kept_message(held.text)
        except BadMessage as error:
            logger.warning("task %s: %s", held.task_id, error)
            return None


def _sent(one: RetriedTask, message: TaskMessage) -> RetriedTask:
    return replace(one, verdict=RetryVerdict.SENT, new_id=message.task_id)
