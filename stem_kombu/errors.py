"""Every exception that Stem raises, as one tree sorted by who must act.

Each message names the object, the value and what went wrong; ``hint`` names the next step. The tree is sorted by the
person who has to act: the operator who configured it (:class:`ConfigurationError`), the operator of the store
(:class:`StoreError`) or of the broker (:class:`BrokerError`), the sender of a command (:class:`ControlError`) or the author
of a handler (:class:`ExecutionError`).

:class:`~stem_kombu.context.TaskRevoked` is deliberately not here: it is an order, not an error.
"""

from __future__ import annotations

import sys


class StemError(Exception):
    """Base of everything that Stem raises on purpose.

    ``hint`` is one sentence that says what to try next, or ``None`` where nothing useful can be said.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint is not None and sys.version_info >= (3, 11):
            self.add_note(f"hint: {hint}")  # a traceback shows it, also in a log

    def __str__(self) -> str:
        return self.message


class ConfigurationError(StemError):
    """A flag, variable, URL or keyword is invalid; nothing was attempted."""


class StoreError(StemError):
    """The revoke store or the result backend could not do what was asked."""


class StoreUnavailable(StoreError):
    """The store can't be reached or refused the connection; the same call may succeed later."""


class StoreLate(StoreUnavailable):
    """The store did not do it within the time that the caller had. What was being stored may be stored yet."""


class StoreRefused(StoreUnavailable):
    """The store refuses it until a person changes something: a password, a right, a database. To repeat the call at once
    makes no sense."""


class StoreCorrupt(StoreError):
    """What the store holds can't be read; the message names the place (file and line, or table and key)."""


class RecordConflict(StoreError):
    """Another writer was first: the store holds version ``held`` (0: none) of the record, and nothing was stored.

    ``place`` and ``key`` name the record. Read it again, decide anew, and repeat the change.
    """

    def __init__(self, message: str, *, place: str, key: str, held: int) -> None:
        super().__init__(message, hint="look again: another operator changed it meanwhile")
        self.place, self.key, self.held = place, key, held

    @classmethod
    def of(cls, place: str, key: str, replaces: int, held: int) -> RecordConflict:
        """The error for a change that replaces a version which is not held."""
        there = f"version {held}" if held else "none"
        return cls(
            f"{place} {key!r}: the change replaces version {replaces}, and the store holds {there}; nothing was stored",
            place=place,
            key=key,
            held=held,
        )


class BrokerError(StemError):
    """The broker could not do what was asked.

    ``unconfirmed``: after sending, the ids of the tasks that the broker has not confirmed; it may have them, or not.
    """

    unconfirmed: tuple[str, ...] = ()


class BrokerUnavailable(BrokerError):
    """The broker can't be reached or refused the connection; the same call may succeed later."""


class BrokerRefused(BrokerUnavailable):
    """The broker refuses it until a person changes something: a password, a right, a virtual host. To repeat the call at
    once makes no sense."""


class BrokerBlocked(BrokerUnavailable):
    """RabbitMQ takes no messages while it has a resource alarm (memory, disk); it still delivers. The same call may succeed
    when the alarm is over, and what was sent before this was known may arrive then."""


class BroadcastUnsupported(BrokerError):
    """The transport can neither fan out nor reach workers one by one; control would be dropped in silence."""


class ControlError(StemError):
    """A control message was refused; ``code`` is the stable word that travels in replies."""

    code = "control-error"

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message, hint=hint)
        if code is not None:
            self.code = code


class BadMessage(ControlError):
    """A control message that can't be decoded: not JSON, too large, wrong version, a field missing or of another type."""

    code = "bad-message"


class UnknownCommand(ControlError):
    """A well-formed command whose name is not registered on this worker."""

    code = "unknown-command"


class ExecutionError(StemError):
    """A task could not be executed as asked."""


class TaskNotRegistered(ExecutionError):
    """The message names a task that this worker's application does not define."""


class ResultNotSerializable(ExecutionError):
    """The handler returned what JSON cannot hold."""


class LeaseLost(ExecutionError):
    """The broker gave the message to another worker; what this handler does from here on is done twice."""


class TimeLimitExceeded(ExecutionError):
    """The hard time limit passed and the child that ran the task was killed."""


class SoftTimeLimitExceeded(ExecutionError):
    """Raised in the handler at its first checkpoint after the soft time limit, so that it can clean up."""


class TaskFailed(ExecutionError):
    """What ``result.get()`` raises for a task that ended as ``failed``; ``error_type`` is the name of the original class."""

    def __init__(self, message: str, *, error_type: str, traceback: str | None = None) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.traceback = traceback


class TaskCancelled(ExecutionError):
    """What ``result.get()`` raises for a task that ended as ``cancelled``."""


class ResultTimeout(ExecutionError):
    """``result.get(timeout=…)`` ran out of time while the task had not ended."""
