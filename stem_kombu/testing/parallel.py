"""The same function in many processes at the same moment, for what only a race can show."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

from stem_kombu.clock import SYSTEM

#: Longest wait for the slowest of them, in seconds.
PATIENCE = 60.0


def in_processes(count: int, target: Callable[..., Any], *args: Any, timeout: float = PATIENCE) -> list[Any]:
    """What ``target(place, *args)`` returned in each of ``count`` processes, by place.

    All are let go at once, when the last one is ready; none outlives the call. ``target`` must be a function of a
    module. Raises ``AssertionError`` with the traceback of the first that failed, or when one has not ended in time.
    """
    # Not fork: the children of a test with threads could inherit a lock that nobody will release.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "stem_kombu.backends.registry", target.__module__])
    gate = context.Barrier(count)
    ends = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [
        context.Process(target=_run, args=(gate, sender, target, place, args)) for place, (_, sender) in enumerate(ends)
    ]
    try:
        for process, (_, sender) in zip(processes, ends, strict=True):
            process.start()
            sender.close()
        return _answers([receiver for receiver, _ in ends], timeout)
    finally:
        for process in processes:
            if process.pid is not None and process.is_alive():
                process.kill()
            if process.pid is not None:
                process.join(PATIENCE)
        for receiver, _ in ends:
            receiver.close()


def _answers(receivers: Sequence[Connection[Any, Any]], timeout: float) -> list[Any]:
    deadline = SYSTEM.monotonic() + timeout
    answers = []
    for place, receiver in enumerate(receivers):
        assert receiver.poll(max(0.0, deadline - SYSTEM.monotonic())), f"process {place} did not end in {timeout:g} s"
        try:
            failure, answer = receiver.recv()
        except EOFError:
            raise AssertionError(f"process {place} died without a word") from None
        assert failure is None, f"process {place} failed:\n{failure}"
        answers.append(answer)
    return answers


def _run(
    gate: Barrier, sender: Connection[Any, Any], target: Callable[..., Any], place: int, args: Sequence[Any]
) -> None:
    try:
        gate.wait(PATIENCE)
        sender.send((None, target(place, *args)))
    except BaseException:
        sender.send((traceback.format_exc(), None))
        raise


def eventually(condition: Callable[[], object]) -> None:
    """Return once the condition holds; raises ``AssertionError`` when that takes longer than :data:`PATIENCE`."""
    deadline = SYSTEM.monotonic() + PATIENCE
    while not condition():
        assert SYSTEM.monotonic() < deadline, "it did not happen in time"
        SYSTEM.sleep(0.002)


class Processes:
    """Run a function of this module in new interpreters, all let go at the same moment; none outlives the block."""

    def __init__(self, count: int, target: Callable[..., None], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._gate = context.Barrier(count)  # kept: its name vanishes with the last reference of this process
        self._processes = [context.Process(target=target, args=(self._gate, place, *args)) for place in range(count)]

    def __enter__(self) -> Sequence[Any]:
        for process in self._processes:
            process.start()
        return self._processes

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:
            if process.is_alive():
                process.kill()
            process.join(PATIENCE)
