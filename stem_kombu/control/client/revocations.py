"""The revocations of a fleet, as an operator sees them: which are in force, what is known of one, and taking them back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stem_kombu import chance, timeouts
from stem_kombu.bound import bounds_shown
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.control import undo
from stem_kombu.control.audit import AUDIT, Entry, Note, tasks_target
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.command_request import default_requester
from stem_kombu.control.client.outcomes import counted_note
from stem_kombu.control.client.undoing import UndoAnswer, UndoneTask, UndoReport, answered
from stem_kombu.control.verification import Verifier
from stem_kombu.durations import checked_duration
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import FieldError
from stem_kombu.outcome import TaskState
from stem_kombu.revocation import Revocation
from stem_kombu.signing.keyring import Scope
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.records import Removal

if TYPE_CHECKING:
    from stem_kombu.app import Stem
    from stem_kombu.settings import Settings

SCHEMA = "stem.revocations/1"
#: Revocations that :meth:`RevocationClient.find` returns at most.
MOST_FOUND = 100_000
#: Revocations of one change, and entries of the audit that are looked through for a task.
_CHUNK, _ENTRIES = 500, 2000


@dataclass(frozen=True, slots=True)
class FoundRevocations:
    """The newest matching revocations that are in force, newest first; ``matched`` counts all."""

    namespace: str
    revocations: tuple[Revocation, ...]
    matched: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "namespace": self.namespace,
            "revocations": [record.to_record() | bounds_shown(record) for record in self.revocations],
            "matched": self.matched,
        }


@dataclass(frozen=True, slots=True)
class RevocationView:
    """What is known of one task: the revocation in force, the last undo (as JSON), its entries of the audit, newest first, and
    what the backend says."""

    task_id: str
    revocation: Revocation | None
    undone: dict[str, object] | None
    entries: tuple[Entry, ...]
    state: str | None

    def to_dict(self) -> dict[str, Any]:
        record = self.revocation
        return {
            "schema": SCHEMA,
            "id": self.task_id,
            "revocation": None if record is None else record.to_record() | bounds_shown(record),
            "undone": self.undone,
            "audit": [entry.to_dict() for entry in self.entries],
            "state": self.state,
        }


class RevocationClient:
    """Looks at revocations and takes them back. ``target`` is an application or settings; ``on_wait`` is as that of
    :class:`~stem_kombu.control.client.client.ControlClient`, which raises the same errors.

    Raises :class:`~stem_kombu.errors.StoreUnavailable` when the revoke store can't be reached, and
    :class:`ConfigurationError` for one that keeps revocations only.
    """

    def __init__(
        self,
        target: Stem | Settings,
        *,
        on_wait: Callable[[int, int, float], None] | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._control = ControlClient(target, on_wait=on_wait, clock=clock)
        self._clock = clock
        self.settings: Settings = self._control.settings
        self._places = self._control.places
        self._namespace = self.settings.namespace
        self._trust = Verifier.of(self.settings.signing, clock=clock)
        self.is_audited = True

    def find(
        self,
        *,
        task: str | None = None,
        requester: str | None = None,
        since: timedelta | None = None,
        limit: int = 1000,
    ) -> FoundRevocations:
        """The newest ``limit`` revocations in force that match all of: globs of the task id and of the requester, and how long
        ago at most they were issued."""
        store = self._places.revoke_store()
        earliest = None if since is None else store.now() - since
        found: deque[Revocation] = deque(maxlen=limit)
        matched = 0
        for record in store.load(self._namespace):
            if _matches(record, task, requester, earliest):
                matched += 1
                found.append(record)
        return FoundRevocations(self._namespace, tuple(reversed(found)), matched)

    def show(self, task_id: str) -> RevocationView:
        """What is known of the revocation of a task."""
        store, keyring = self._places.revoke_store(), self._trust.keyring
        undone = store.record(self._namespace, undo.UNDO, task_id)
        entries = []
        for record in store.newest_records(self._namespace, AUDIT, _ENTRIES):
            try:
                entry = Entry.of(record, self._namespace, keyring)
            except FieldError:
                continue
            if entry.concerns(task_id):
                entries.append(entry)
        state = self._states([task_id], self.settings.control_timeout).get(task_id)
        return RevocationView(
            task_id,
            store.get(self._namespace, task_id),
            None if undone is None else undo.to_dict(undone),
            tuple(entries),
            None if state is None else state.value,
        )

    def undo(
        self,
        names: Sequence[str] = (),
        *,
        request: str | None = None,
        reason: str | None = None,
        requested_by: str | None = None,
        timeout: float | None = None,
        dry_run: bool = False,
    ) -> UndoReport:
        """Take revocations back: ``names`` are task ids or versions, ``request`` is the id of a command, all of whose revocations
        are meant that are still in force as it left them.

        Stored first, then told to the workers. What was recorded as cancelled stays so. Raises
        :class:`~stem_kombu.errors.RecordConflict` when one of them was revoked again meanwhile, and then nothing was undone.
        """
        if isinstance(names, str):
            raise ConfigurationError(f"task ids {names!r} is one text", hint="pass a list of ids")
        if bool(names) == (request is not None):
            raise ConfigurationError("give task ids or versions, or the id of a request", hint="one of them, not both")
        began, store = self._clock.monotonic(), self._places.revoke_store()
        timeout = self.settings.control_timeout if timeout is None else checked_duration(timeout, name="timeout")
        if not store.keeps_records:
            raise ConfigurationError(
                f"revoke store {store.url} keeps revocations only: none can be undone in it",
                hint="use Redis, PostgreSQL, SQLite or a file as the revoke store",
            )
        look = partial(self._meant, store, names, request)
        found = self._places.in_time(look, timeout + timeouts.STORE_EACH * len(names), stores=False)
        unknown = [UndoneTask(name, UndoAnswer.UNKNOWN) for name, one in found.items() if one is None]
        held = list({one.task_id: one for one in found.values() if one is not None}.values())
        if dry_run or not held:
            planned = [UndoneTask(one.task_id, UndoAnswer.PENDING, one.version) for one in held]
            return UndoReport((*planned, *unknown), None, dry_run)
        request_id, who = chance.token_hex(16), requested_by or default_requester()
        revoker = self._control.revoker(timeout)

        def end() -> list[Revocation]:
            ended: list[Revocation] = []
            for first in range(0, len(held), _CHUNK):
                chunk = held[first : first + _CHUNK]
                removals = [Removal(one.task_id, one.version, reason, who) for one in chunk]
                target = tasks_target((one.task_id for one in chunk), versions=[one.version for one in chunk][:1000])
                ended += revoker.undo(removals, Note("undo", target, who, reason, request_id=request_id)).changed.ended
            return ended

        span = timeout + timeouts.STORE_EACH * len(held)
        ended = self._places.in_time(end, self._control.left(began, span))
        told = self._control.announce(ended, request_id, None, timeout, began=began)
        left = max(self._control.left(began, span), timeouts.NOTE_LATEST)
        states = self._states([one.task_id for one in held], left)
        tasks = answered(list(zip(held, ended, strict=True)), told, states)
        outcome = {answer.value: sum(task.answer is answer for task in tasks) for answer in UndoAnswer}
        note = Note("undo", {"count": len(held)}, who, reason, None, {"outcome": outcome}, request_id)
        return UndoReport((*tasks, *unknown), told, audited=self._control.noted(note))

    def prune(
        self,
        *,
        older_than: float = timeouts.REVOCATION_END_KEPT,
        requested_by: str | None = None,
        reason: str | None = None,
    ) -> int:
        """How many revocations and records were deleted that had ended ``older_than`` seconds ago. Needs a key with the scope
        ``destroy``: a worker that was away for longer reads no end of what it holds. :attr:`is_audited` is false afterwards where
        the audit has no entry of it."""
        self._trust.require(Scope.DESTROY, "prune the revocations")
        store, auditor = self._places.revoke_store(), self._control.auditor()
        who, request_id = requested_by or default_requester(), chance.token_hex(16)
        note = Note("prune", {"older_than_s": older_than}, who, reason, request_id=request_id)
        self.is_audited = auditor.note(note) is not None
        pruned = store.prune_after(self._namespace, older_than)
        pruned += store.prune_records(self._namespace, store.now() - timedelta(seconds=older_than))
        if self.is_audited:
            auditor.note(counted_note("prune", who, reason, request_id, pruned=pruned))
        return pruned

    def close(self) -> None:
        """Let every connection go. May be called twice."""
        self._control.close()

    def __enter__(self) -> RevocationClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _meant(self, store: RevokeStore, names: Sequence[str], request: str | None) -> dict[str, Revocation | None]:
        """What is in force of each name, or of each task id of that request."""
        if request is not None:
            return {one.task_id: one for one in self._of_request(store, request)}
        return {name: self._held(store, name) for name in dict.fromkeys(names)}

    def _held(self, store: RevokeStore, name: str) -> Revocation | None:
        """The revocation in force of a task id, else that of a version."""
        if (record := store.get(self._namespace, name)) is not None:
            return record
        if not (name.isascii() and name.isdigit() and len(name) <= 16):
            return None
        record = next(iter(store.since(self._namespace, int(name) - 1)), None)
        return (
            record
            if record is not None and record.version == int(name) and not record.is_expired(store.now())
            else None
        )

    def _of_request(self, store: RevokeStore, request: str) -> Iterator[Revocation]:
        now = store.now()
        for record in store.records_since(self._namespace, 0, [AUDIT]):
            body, target = record.body, record.body.get("target")
            if body.get("request_id") != request or body.get("action") != "revoke" or not isinstance(target, dict):
                continue
            if "count" not in target:
                continue  # the outcome, which has stored nothing
            # A change numbers its revocations first, then its records, of which the entry is the first.
            count = target.get("count")
            for one in store.since(self._namespace, record.version - (count if type(count) is int else 0) - 1):
                if one.version >= record.version:
                    break
                if not one.is_expired(now):
                    yield one

    def _states(self, task_ids: Sequence[str], within: float) -> dict[str, TaskState]:
        """What the backend says of these tasks, within so many seconds; nothing where it can't be read."""
        found = self._places.task_records(task_ids, within) or {}
        return {task_id: record.state for task_id, record in found.items() if record is not None}


def _matches(record: Revocation, task: str | None, requester: str | None, earliest: datetime | None) -> bool:
    if earliest is not None and record.issued_at < earliest:
        return False
    if task is not None and not fnmatchcase(record.task_id, task):
        return False
    return requester is None or fnmatchcase(record.requested_by or "", requester)
