"""The frames on the pipe between a worker and one of its children, and which of them may come when.

Every frame about a job names its token, so that an order for a job that has just ended can't hit the next one (G8). The
pipe is private to the two processes, which is why pickle is allowed on it, and nowhere else.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from operator import attrgetter
from typing import Any

from stem_kombu.execution.base import Stop
from stem_kombu.outcome import Ending, Outcome, TaskError
from stem_kombu.revocation import Revocation
from stem_kombu.task import TaskMessage

# -- down, to the child -----------------------------------------------------------------------------------------------


@dataclass(slots=True)  # never changed: see TaskMessage
class Run:
    """Call the handler of the message's task, if it is not later than ``good_until`` (monotonic seconds, the same for all
    processes of a machine).

    Of the message only that goes to the child with which a handler is called."""

    token: int
    message: TaskMessage
    good_until: float | None = None


@dataclass(frozen=True, slots=True)
class StopJob:
    """Make the next checkpoint of that job raise; nothing when it isn't the one that runs."""

    token: int
    why: Stop
    revocation: Revocation | None = None


@dataclass(frozen=True, slots=True)
class SetLogLevels:
    """Give these loggers (empty: the root) these levels from now on, and all others their own again."""

    levels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Retire:
    """Exit, now that nothing runs."""


# -- up, to the worker --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The application is loaded; jobs may come. ``leads_group``: the child leads a process group of its own."""

    pid: int
    leads_group: bool = False
    rss_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The application can't be loaded in a child: which is the application's error, so trying again won't help.

    ``again``: another child may be spared it, as a start hook failed or the system was short of something. Of the latter
    (``is_short``) a few in a row end a start."""

    message: str
    again: bool = False
    is_short: bool = False


@dataclass(slots=True)  # never changed: see TaskMessage
class Started:
    """The handler is about to be called."""

    token: int


@dataclass(frozen=True, slots=True)
class Declined:
    """The job was found too late to begin it as it is: it is the worker's again."""

    token: int


@dataclass(slots=True)  # never changed: see TaskMessage
class Report:
    """A checkpoint that reports: alive, and perhaps how far (``data`` is ``None`` for a bare heartbeat)."""

    token: int
    fraction: float | None = None
    data: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class ExtendLease:
    """Keep the message for that many seconds from now."""

    token: int
    seconds: float


@dataclass(slots=True)  # never changed: see TaskMessage
class Finished:
    """The attempt is over; ``rss_bytes`` is the child's resident memory after it, where that is bounded."""

    token: int
    outcome: Outcome
    rss_bytes: int | None


# -- which frame may come when ------------------------------------------------------------------------------------------------


class ChildState(str, Enum):
    """A child as its worker sees it."""

    STARTING = "starting"
    IDLE = "idle"
    HANDED = "handed"  # a job was written to its pipe; the handler has not been called yet
    RUNNING = "running"
    STOPPING = "stopping"  # running, and a stop was requested
    RETIRING = "retiring"


CHILD_TRANSITIONS: dict[tuple[ChildState, type], ChildState] = {
    (ChildState.STARTING, Ready): ChildState.IDLE,
    (ChildState.STARTING, LoadFailed): ChildState.RETIRING,
    (ChildState.STARTING, Retire): ChildState.RETIRING,
    (ChildState.IDLE, Run): ChildState.HANDED,
    (ChildState.IDLE, Retire): ChildState.RETIRING,
    (ChildState.IDLE, SetLogLevels): ChildState.IDLE,
    (ChildState.HANDED, SetLogLevels): ChildState.HANDED,
    (ChildState.RUNNING, SetLogLevels): ChildState.RUNNING,
    (ChildState.STOPPING, SetLogLevels): ChildState.STOPPING,
    (ChildState.IDLE, Declined): ChildState.IDLE,
    (ChildState.IDLE, StopJob): ChildState.IDLE,  # lost the race: the job had just finished
    (ChildState.HANDED, Started): ChildState.RUNNING,
    (ChildState.HANDED, StopJob): ChildState.HANDED,  # waits in the pipe for the first checkpoint
    (ChildState.HANDED, Finished): ChildState.IDLE,  # refused before the handler was called
    (ChildState.RUNNING, Report): ChildState.RUNNING,
    (ChildState.RUNNING, ExtendLease): ChildState.RUNNING,
    (ChildState.RUNNING, StopJob): ChildState.STOPPING,
    (ChildState.RUNNING, Finished): ChildState.IDLE,
    (ChildState.STOPPING, Report): ChildState.STOPPING,
    (ChildState.STOPPING, ExtendLease): ChildState.STOPPING,
    (ChildState.STOPPING, StopJob): ChildState.STOPPING,  # a repeated revoke is harmless
    (ChildState.STOPPING, Finished): ChildState.IDLE,
}


class ProtocolFault(Exception):
    """A frame that may not come in this state, or bytes that are no frame: the child is replaced."""


def transition(state: ChildState, kind: type) -> ChildState:
    """The state after a frame of that kind; raises :class:`ProtocolFault` for an edge that isn't in the table."""
    after = CHILD_TRANSITIONS.get((state, kind))
    if after is None:
        raise ProtocolFault(f"{kind.__name__} while {state.value}")
    return after


# -- bytes --------------------------------------------------------------------------------------------------------------

_LENGTH = struct.Struct("!Q")
#: A frame of which the receiver needs no more than what it is and its token.
_SHORT = struct.Struct("!BQ")
_STARTED, _SUCCEEDED = 1, 2
#: How an attempt ends that has nothing to say: without a result, as most do.
_NO_MORE = Outcome(Ending.SUCCEEDED)
#: Bytes of one frame; more is a fault, not a job. Brokers stop long before.
LONGEST = 1 << 30


#: The fields of each frame that its receiver looks at, and of what types they may be.
_FIELDS: dict[type, tuple[tuple[str, tuple[type, ...]], ...]] = {
    Run: (("token", (int,)), ("message", (TaskMessage,)), ("good_until", (float, int, type(None)))),
    StopJob: (("token", (int,)), ("why", (Stop,)), ("revocation", (Revocation, type(None)))),
    Retire: (),
    Ready: (("pid", (int,)), ("leads_group", (bool,)), ("rss_bytes", (int, type(None)))),
    LoadFailed: (("message", (str,)), ("again", (bool,)), ("is_short", (bool,))),
    Started: (("token", (int,)),),
    Report: (("token", (int,)), ("fraction", (float, int, type(None))), ("data", (dict, type(None)))),
    ExtendLease: (("token", (int,)), ("seconds", (float, int))),
    Finished: (("token", (int,)), ("outcome", (Outcome,)), ("rss_bytes", (int, type(None)))),
    Declined: (("token", (int,)),),
    SetLogLevels: (("levels", (dict,)),),
}
#: What a frame may hold that pickle writes as an object: cut or scribbled on, it makes one without its attributes.
_PARTS: dict[type, tuple[str, ...]] = {
    kind: tuple(one.name for one in fields(kind)) for kind in (Revocation, TaskError)
}


def _check(frame: object) -> None:
    """Raise ``TypeError`` or ``AttributeError`` unless that is a whole frame."""
    for name, kinds in _FIELDS[type(frame)]:
        value = getattr(frame, name)
        if not isinstance(value, kinds):
            raise TypeError(f"{name} of a {type(frame).__name__} is a {type(value).__name__}")
    held: tuple[object, ...] = ()
    if isinstance(frame, StopJob):
        held = (frame.revocation,)
    elif isinstance(frame, Finished):
        held = frame.outcome.error, frame.outcome.revocation
    for value in held:
        for part in _PARTS.get(type(value), ()):
            getattr(value, part)


def encode(frame: object) -> bytes:
    """The frame with its length in front, for a pipe."""
    body = encode_alone(frame)
    return _LENGTH.pack(len(body)) + body


def encode_alone(frame: object) -> bytes:
    """The frame for a channel that keeps messages apart."""
    kind = type(frame)
    # What a child writes for each short task: its first byte is none with which a pickle begins.
    if isinstance(frame, Started):
        return _SHORT.pack(_STARTED, frame.token)
    if isinstance(frame, Finished) and frame.rss_bytes is None and frame.outcome == _NO_MORE:
        return _SHORT.pack(_SUCCEEDED, frame.token)
    return pickle.dumps((_CODES[kind], *_PARTED[kind](frame)), protocol=pickle.HIGHEST_PROTOCOL)


def decode_alone(body: bytes | bytearray | memoryview) -> object:
    """The frame of these bytes; whatever can go wrong with bytes that are none is raised as it comes."""
    if len(body) == _SHORT.size:
        sign, token = _SHORT.unpack(body)
        if sign == _STARTED:
            return Started(token)
        if sign == _SUCCEEDED:
            return Finished(token, _NO_MORE, None)
    code, *parts = pickle.loads(body)  # noqa: S301 - our own child, on a pipe that no other process can reach
    frame: object = _MADE[code](*parts)
    _check(frame)
    return frame


# A frame is written as a number and its fields, and what is in nearly every frame likewise: for each object that pickle
# writes by itself, both ends look its class up by name, which takes longer than all the rest of a short task's way.


def _parts_of(kind: type) -> Callable[[object], tuple[object, ...]]:
    """How to take a value apart into what makes it again, in order."""
    names = [field.name for field in fields(kind)]
    if len(names) > 1:
        return attrgetter(*names)
    return _only(attrgetter(*names)) if names else _none


def _only(part: Callable[[object], object]) -> Callable[[object], tuple[object, ...]]:
    def parts(value: object) -> tuple[object, ...]:
        return (part(value),)

    return parts


def _none(_value: object) -> tuple[object, ...]:
    return ()


_OUTCOME = _parts_of(Outcome)
#: What a handler is called with; what else a message holds is the worker's.
_CALL = attrgetter("task_id", "name", "args", "kwargs", "queue", "attempt", "headers")


def _run_parts(run: Run) -> tuple[object, ...]:
    return run.token, run.good_until, *_CALL(run.message)


def _run_of(
    token: int,
    good_until: float | None,
    task_id: str,
    name: str,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    queue: str,
    attempt: int,
    headers: dict[str, object],
) -> Run:
    return Run(token, TaskMessage(task_id, name, args, kwargs, queue, attempt, headers=headers), good_until)


def _finished_parts(finished: Finished) -> tuple[object, ...]:
    outcome = finished.outcome
    return finished.token, finished.rss_bytes, outcome.kind.value, *_OUTCOME(outcome)[1:]


def _finished_of(token: int, rss_bytes: int | None, kind: str, *rest: Any) -> Finished:
    return Finished(token, Outcome(Ending(kind), *rest), rss_bytes)


_CODES = {kind: code for code, kind in enumerate(_FIELDS)}
_PARTED: dict[type, Callable[[Any], tuple[object, ...]]] = {
    **{kind: _parts_of(kind) for kind in _CODES},
    Run: _run_parts,
    Finished: _finished_parts,
}
_MADE: dict[int, Callable[..., object]] = {
    **{code: kind for kind, code in _CODES.items()},
    _CODES[Run]: _run_of,
    _CODES[Finished]: _finished_of,
}


class FrameReader:
    """Bytes in, frames out, however the bytes were cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[object]:
        """The frames that are complete now, one by one, so that those before a malformed one count; for that one
        :class:`ProtocolFault` is raised."""
        buffer, at = self._buffer, 0
        buffer += data
        try:
            while len(buffer) - at >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer, at)
                if length > LONGEST:
                    raise ProtocolFault(f"a frame of {length} bytes")
                begin = at + _LENGTH.size
                if len(buffer) < begin + length:
                    return
                at = begin + length
                try:
                    frame = decode_alone(buffer[begin:at])
                except Exception as error:
                    # Unpickling may raise anything; whatever it is, the peer speaks another protocol.
                    raise ProtocolFault(f"a frame that can't be read: {error!r}"[:500]) from error
                yield frame
        finally:
            del buffer[:at]  # once for all of them
