"""The words of :mod:`~stem_kombu.worker.transitions`: events of a delivery, facts, and actions as data. Phases are those of
:mod:`~stem_kombu.worker.phase`."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import NamedTuple, Protocol, TypeVar

from stem_kombu.execution.base import Stop
from stem_kombu.ladder import Ladder
from stem_kombu.outcome import Outcome, TaskError, TaskRecord
from stem_kombu.revocation import Revocation
from stem_kombu.task import TaskMessage, TaskOptions
from stem_kombu.worker.phase import Phase
from stem_kombu.worker.settlement import MessageDisposition, Settlement


class Event(str, Enum):
    """What happens to a delivery."""

    UNTRUSTED = "untrusted"  # a signature is missing or wrong
    UNREADABLE = "unreadable"  # a task that can't be decoded
    FOREIGN = "foreign"  # no task: another application's message
    REDELIVERED = "redelivered"  # decoded, and the broker says that it delivered it before
    RECORDED_BEFORE = "recorded before"  # a record says that this attempt needs no further run
    DECODED = "decoded"
    DUE = "due"  # the time until which it was held or deferred
    HELD_LONGEST = "held longest"  # it was held for as long as the broker allows
    NO_SLOT = "no slot"  # of its kind, while there may be one at another worker
    SLOT_FREE = "slot free"
    STARTED = "started"  # the handler is about to be called
    ENDED = "ended"  # with an outcome
    REVOKED = "revoked"
    PAUSED = "paused"  # no task of its queue may start here for now
    LEASE_LOST = "lease lost"  # the broker has given it to another worker
    CONNECTION_LOST = "connection lost"  # the broker has it again, where messages stay with a connection
    STOP_REQUESTED = "stop requested"  # the worker is stopping
    RELEASE_REQUESTED = "release requested"  # it is to stop without waiting for what runs
    ATTEMPTED = "attempted"  # its next attempt is about to be published, or its outcome about to be recorded
    REFUSED = "refused"  # the broker does not take the next attempt now
    UNSENDABLE = "unsendable"  # the next attempt can never be sent
    NOT_STORABLE = "not storable"  # the outcome can't be recorded as it is
    GIVEN_UP = "given up"  # the worker is stopping, and the outcome could not be carried out
    RECORDED = "recorded"  # each step before the acknowledgement is done
    FOLLOWED_ENDED = "followed ended"  # the run of its attempt that it followed is recorded
    SETTLED = "settled"  # the thread of the connection is about to answer the broker

    def __init__(self, _: str) -> None:
        #: Its row.
        self.place = len(type(self).__members__)


class Do(Enum):
    """What is to be done about a delivery."""

    IGNORE = "ignore"
    FAULT = "fault"  # say that the impossible has happened; what has not started is given back
    PROCEED = "proceed"  # with the next step
    WAIT = "wait"  # and try the step again
    ADOPT = "adopt"  # let the redelivered message take the place of the one that is here
    HOLD = "hold"  # until its eta, or for ``seconds``
    PACE = "pace"  # submit it when its rate limits let it start
    DEFER = "defer"  # until ``until`` (monotonic)
    SUBMIT = "submit"  # to its executor
    WITHHOLD = "withhold"  # from its slot; it ends with ``outcome``
    WITHDRAW = "withdraw"  # from its executor; where it has started meanwhile, stop it for ``stop``
    STOP = "stop"  # its handler, for ``stop``; where it does not, by ``ladder``
    SETTLE = "settle"  # carry ``settlement`` out: publish, record, then answer the broker
    REFUSE = "refuse"  # the same, or where another message of its attempt runs here, let it end as that one
    FINISH = "finish"  # leave it, with ``disposition``, to the thread of the connection
    ACKNOWLEDGE = "acknowledge"
    REJECT = "reject"  # to the dead-letter exchange where there is one
    REQUEUE = "requeue"
    REMOVE = "remove"  # nothing is said to the broker: it, or another worker, has the message


class Facts(NamedTuple):
    """What is known when something happens; a field that the event does not ask about keeps its default."""

    message: TaskMessage | None = None
    now: datetime | None = None
    worker: str = ""
    revocation: Revocation | None = None  # the live one of this task
    recorded: TaskRecord | None = None  # the record by which the attempt needs no further run
    is_ours: bool = True  # as far as is known, the broker has not given the message to another worker
    is_lease_lost: bool = False
    is_paused: bool = False  # its queue is, so that it may not start here
    is_limited: bool = False  # a rate limit counts for it that it has not passed
    has_started: bool = False
    # of a message that has just come
    is_here: bool = False  # another message of the attempt is here, whose place it can take
    is_task: bool = True
    is_signed: bool = True  # or nothing has to be
    unregistered: TaskError | None = None
    is_suspect: bool = False  # it may have ended workers, which has to be judged before it may start
    has_dead_letters: bool = False
    aside: TaskMessage | None = None  # the message as it is kept in a queue of its own
    error: TaskError | None = None
    # of one that waits
    verdict: float | TaskError | None = (
        None  # whether it ended workers: no, seconds until that is known, or that it did
    )
    until: float = 0.0
    # of one that runs
    ladder: Ladder | None = None  # how it is ended where it does not stop
    # of one that has ended
    outcome: Outcome | None = None
    options: TaskOptions | None = None
    started_at: datetime | None = None
    max_retries: int = 0
    jitter: float = 0.0
    lost_workers: tuple[str, ...] = ()
    stopped_after: float | None = None  # seconds from the request of an operator to stop to this end
    # of one whose outcome is carried out
    settlement: Settlement | None = None
    why: Exception | None = None
    tries: int = 0
    is_explained: bool = True
    disposition: MessageDisposition | None = None
    is_current: bool = True  # the connection that brought it stands
    is_tag_valid: bool = True  # its delivery tag means this message to the connection that stands
    # of one with an eta, or with another attempt to come
    fleet_now: datetime | None = None  # by the clock with which that date is compared


NO_FACTS = Facts()


class Action(NamedTuple):
    """What is to be done, with what it takes."""

    do: Do
    settlement: Settlement | None = None
    outcome: Outcome | None = None
    stop: Stop | None = None
    seconds: float | None = None
    until: float | None = None
    disposition: MessageDisposition | None = None
    ladder: Ladder | None = None


class ImpossibleTransition(Exception):
    """Something was reported of a delivery that can't happen in its phase."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f"{event.value} in phase {phase.value}")


Held = TypeVar("Held", contravariant=True)


class DeliveryEvents(Protocol[Held]):
    """Where parts that wait for something report what happens to a delivery."""

    def happened(self, delivery: Held, event: Event) -> None:
        """Decide what follows and do it. From any thread."""
