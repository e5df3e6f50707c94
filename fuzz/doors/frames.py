"""The pipe between a worker and its children: a stream of bytes, cut anywhere.

The pipe is private to two processes, and its frames are pickles, which may call what they name. So that a fuzzer runs
nothing by chance, inputs whose frames name anything but Stem's own classes never get to the reader.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Iterator
from datetime import datetime, timezone

from fuzz.oracle import Refused, holds
from stem_kombu.execution.base import Stop
from stem_kombu.execution.frames import (
    ChildState,
    ExtendLease,
    Finished,
    FrameReader,
    LoadFailed,
    ProtocolFault,
    Ready,
    Report,
    Retire,
    Run,
    Started,
    StopJob,
    encode,
    transition,
)
from stem_kombu.outcome import Ending, Outcome, TaskError
from stem_kombu.revocation import Revocation
from stem_kombu.task import TaskMessage

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
_LENGTH = struct.Struct("!Q")
_NAMING = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"}
#: Opcodes by which a few bytes ask for gigabytes: the memo is an array that grows up to its highest index.
_SIZED = {"LONG_BINPUT", "PUT"}
_CUTS = (1, 3, 7, 64, 1 << 16)


def pipe_frames(data: bytes) -> None:
    if not _harmless(data):
        raise Refused
    whole = _read(data, len(data) or 1)
    cut = _read(data, _CUTS[len(data) % len(_CUTS)])
    holds(repr(whole) == repr(cut), "what is read depends on how the bytes were cut", whole, cut)
    state = ChildState.STARTING
    for frame in whole[0]:
        try:
            state = transition(state, type(frame))
        except ProtocolFault:
            break


def _read(data: bytes, step: int) -> tuple[list[object], bool]:
    """The frames, and whether the stream was given up."""
    reader, frames = FrameReader(), []
    try:
        for start in range(0, len(data), step):
            for frame in reader.feed(data[start : start + step]):
                frames.append(frame)
    except ProtocolFault:
        return frames, True
    return frames, False


def _harmless(data: bytes) -> bool:
    at = 0
    while at + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        body = data[at + _LENGTH.size : at + _LENGTH.size + length]
        at += _LENGTH.size + length
        strings: list[str] = []
        try:
            for opcode, argument, _ in pickletools.genops(body):
                if opcode.name in _SIZED and int(argument) > 100_000:
                    return False
                if isinstance(argument, str):
                    strings.append(argument)
                if opcode.name in _NAMING and not all(_ours(one) for one in strings):
                    return False
        except Exception:  # noqa: BLE001 - bytes that are no pickle make the scanner raise anything; the reader's turn
            if any(name in body for name in (b"os", b"posix", b"builtins", b"sub", b"sys", b"c__")):
                return False
    return True


def _ours(text: str) -> bool:
    return "." not in text or text.startswith(("stem_kombu.", "tasks."))


def pipe_frames_seeds() -> Iterator[bytes]:
    revocation = Revocation("stem", "t-1", 7, NOW, True, "INC-42", "me@host")
    up = [
        Ready(4711), Started(1), Report(1), Report(1, 0.5, {"tile": 3}), ExtendLease(1, 60.0),
        Finished(1, Outcome(Ending.SUCCEEDED, [1, 2]), 50_000_000),
        Finished(2, Outcome(Ending.FAILED, error=TaskError("ValueError", "no", "Traceback")), None), LoadFailed("no module"),
    ]  # fmt: skip
    down = [Run(1, TaskMessage("t-1", "tasks.add", (1,), {"b": 2})), StopJob(1, Stop.REVOKED, revocation), Retire()]
    for frame in (*up, *down):
        yield encode(frame)
    yield b"".join(encode(frame) for frame in (up[0], down[0], *up[1:6], down[2]))
    yield encode(up[0]) + encode(up[1])[:-3]
