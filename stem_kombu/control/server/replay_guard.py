"""Which commands a worker obeys: those addressed to it, fresh, and not seen before (G12, G14). Pure but for its clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.concurrency import threads
from stem_kombu.control.protocol.messages import Command, Shutdown, matches
from stem_kombu.drop_counter import DropCounter
from stem_kombu.signing.keyring import Scope

#: Longest life of a command; a longer one, or one from further in the future, is of a clock that nobody can rely on.
LONGEST_LIFE = timedelta(hours=24)
#: Commands that are remembered until they would be stale anyway; while there are so many, no further one is obeyed.
MOST_COMMANDS = 50_000
#: So many of them may be of keys that can only ask: whoever may look must not keep an operator from acting.
MOST_QUESTIONS = MOST_COMMANDS // 2
#: Bytes of answers that are remembered, for senders whose first reply got lost. The oldest are forgotten first.
MOST_BYTES = 16 * 1024 * 1024


class Verdict(Enum):
    OBEY = "obey"
    #: Not for this worker, or not any more: nothing is said.
    IGNORE = "ignore"
    #: Too late, or said to a predecessor.
    STALE = "stale"
    #: Seen before; there may be an answer to give again.
    KNOWN = "known"
    #: More commands are alive than can be remembered.
    REFUSE = "refuse"


#: Request id, part, and the key that signed it: nobody can use up the number of another's command.
_Number = tuple[str, int, str | None]


def _number(command: Command) -> _Number:
    return command.request_id, command.part, None if command.signer is None else command.signer.id


@dataclass(slots=True)
class _Seen:
    expires: float
    asks_only: bool = False
    answer: bytes | None = None


class ReplayGuard:
    """Remembers, until it expires, each command that was admitted, and the answer once there is one. Thread-safe.

    ``roster_now()`` is the roster's clock in seconds since the epoch: by it commands are stamped. What was seen is forgotten
    with the process; so a worker with keys obeys nothing that was issued before it was ``born()``, by the same clock:
    its predecessor may have obeyed that already.
    """

    def __init__(
        self,
        worker: str,
        namespace: str,
        roster_now: Callable[[], float],
        clock: Clock,
        born: Callable[[], float | None] | None = None,
    ) -> None:
        self._worker = worker
        self._namespace = namespace
        self._roster_now = roster_now
        self._born = born
        self._clock = clock
        self._lock = threads.Lock()
        # In order of arrival. Ages are counted here by the monotonic clock, so that a step of the wall clock neither
        # brings a command back nor keeps it for ever.
        self._seen: OrderedDict[_Number, _Seen] = OrderedDict()
        self._answers: OrderedDict[_Number, int] = OrderedDict()
        self._bytes = 0
        self._questions = 0
        self._complaints = DropCounter("control messages", clock)

    @property
    def dropped(self) -> dict[str, int]:
        """How many messages were dropped, by reason."""
        return self._complaints.dropped

    def judge(self, command: Command) -> Verdict:
        """Whether to carry the command out: the first time it comes, while it is fresh, if it is meant for this worker."""
        if command.namespace != self._namespace or not matches(command.targets, self._worker):
            return Verdict.IGNORE  # not an error: on some transports everyone hears everything
        left, life = self.time_left(command), command.expires_at - command.issued_at
        # The latter: it is issued so long after now.
        if left < 0 or left - timeouts.COMMAND_CLOCK_TOLERANCE > (life + LONGEST_LIFE).total_seconds():
            self.drop("stale", f"command {command.order.name!r} of {command.sender or 'an unnamed client'} has expired")
            return Verdict.STALE
        # A shutdown is for one life of a worker, with keys or without (G33): one that lay in an inbox is its predecessor's.
        is_for_this_life = command.signer is not None or isinstance(command.order, Shutdown)
        if is_for_this_life and self._is_of_another_time(command):
            self.drop("stale", f"command {command.order.name!r} was issued before this worker started, or after now")
            return Verdict.STALE
        if life > LONGEST_LIFE:
            self.drop("bad-message", f"command {command.order.name!r} lives longer than {LONGEST_LIFE}")
            return Verdict.IGNORE
        key = _number(command)
        now = self._clock.monotonic()
        with self._lock:
            if key in self._seen:
                return Verdict.KNOWN
            self._forget_stale(now)
            if len(self._seen) >= MOST_COMMANDS:
                self.drop("overload", f"{MOST_COMMANDS} commands are alive; {command.order.name!r} is refused")
                return Verdict.REFUSE
            asks_only = command.signer is not None and Scope.OPERATE not in command.signer.scopes
            if asks_only and self._questions >= MOST_QUESTIONS:
                self.drop(
                    "overload", f"{MOST_QUESTIONS} commands of readers are alive; {command.order.name!r} is refused"
                )
                return Verdict.REFUSE
            self._questions += asks_only
            self._seen[key] = _Seen(now + left, asks_only)
        return Verdict.OBEY

    def time_left(self, command: Command) -> float:
        """Seconds for which the command may still be carried out, negative once it is stale."""
        # Not as datetimes: the year 9999 has no tomorrow.
        return command.expires_at.timestamp() + timeouts.COMMAND_CLOCK_TOLERANCE - self._roster_now()

    def time_to_answer(self, command: Command) -> float:
        """Seconds for which an answer may be held back: it leaves before half of the command's time is over, so that the way
        back to the sender may take the other half. By the roster's clock; where that says that the command is from after
        now, as if it were from now."""
        issued, expires = command.issued_at.timestamp(), command.expires_at.timestamp()
        return max(0.0, (expires - issued) / 2 - max(0.0, self._roster_now() - issued))

    def answered(self, command: Command, answer: bytes) -> None:
        """Remember the answer, for a sender whose first reply got lost."""
        key = _number(command)
        with self._lock:
            seen = self._seen.get(key)
            if seen is None or len(answer) > MOST_BYTES:
                return
            self._bytes += len(answer) - len(seen.answer or b"")
            seen.answer = answer
            self._answers[key] = len(answer)
            while self._bytes > MOST_BYTES:
                oldest, size = self._answers.popitem(last=False)
                self._seen[oldest].answer = None
                self._bytes -= size

    def answer_to(self, command: Command) -> bytes | None:
        """The answer that was given to this command already, ``None`` when there is none yet or it was forgotten."""
        with self._lock:
            seen = self._seen.get(_number(command))
            return None if seen is None else seen.answer

    def drop(self, reason: str, text: str) -> None:
        """Count a message that is not obeyed, and log it, but no more than once a minute (G17)."""
        self._complaints.drop(reason, text)

    def _is_of_another_time(self, command: Command) -> bool:
        issued, born = command.issued_at.timestamp(), None if self._born is None else self._born()
        return issued > self._roster_now() + timeouts.COMMAND_CLOCK_TOLERANCE or (born is not None and issued < born)

    def _forget_stale(self, now: float) -> None:
        # Most commands live equally long, so the front is stale first; one that lives longer holds up a few others.
        while self._seen:
            key, seen = next(iter(self._seen.items()))
            if seen.expires > now and len(self._seen) < MOST_COMMANDS:
                return
            if seen.expires > now:
                stale = [key for key, seen in self._seen.items() if seen.expires <= now]
                for key in stale:
                    self._forget(key)
                return
            self._forget(key)

    def _forget(self, key: _Number) -> None:
        self._questions -= self._seen.pop(key).asks_only
        self._bytes -= self._answers.pop(key, 0)
