"""The process that forks children: it loads what they share, looks at what that left behind, and forks.

A fork copies memory, but no threads, and shares open sockets. What an import leaves of these would be a lock that is never
released, or one connection for all children; then it starts over without the application, and each child imports for itself.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import select
import signal
import socket
import stat
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from stem_kombu.execution.child.life import flush
from stem_kombu.execution.child.loading import load
from stem_kombu.execution.child.main import live
from stem_kombu.execution.child.setup import ChildSetup
from stem_kombu.execution.pool.fork_order import receive_order, tell
from stem_kombu.execution.pool.semaphore_tracker import share_tracker
from stem_kombu.execution.signals import leave_signals_to_the_worker
from stem_kombu.logs import LogSetup

#: What ``python -c`` is given to run, before the arguments of :func:`main` as JSON.
CODE = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given['path'];"
    " from stem_kombu.execution.pool.fork_process import main; main(given)"
)
#: Names of threads and sockets that are told.
_TOLD = 5


def main(given: Mapping[str, Any]) -> None:
    """``given``: descriptors ``listener``, ``alive`` and ``report``, ``socket`` (a path), ``preload``, ``setup`` (fields of
    :class:`ChildSetup`), ``log`` (fields of :class:`LogSetup`, or ``None``), ``command`` (how this process was started),
    ``argv`` of the worker and, after it has started over, ``found``."""
    leave_signals_to_the_worker()
    sys.argv[:] = given["argv"]
    found = given.get("found")
    if found is None:
        found = _preloaded(
            given["preload"],
            ChildSetup(**{**given["setup"], "modules": tuple(given["setup"]["modules"])}),
            None if given["log"] is None else LogSetup(**given["log"]),
        )
        leave_signals_to_the_worker()
        if given["preload"] == "auto" and (found["threads"] or found["sockets"]):
            os.execv(given["command"][0], [*given["command"], json.dumps({**given, "found": found})])  # noqa: S606
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, all of it
    with suppress(OSError):
        os.write(given["report"], json.dumps(found).encode())
    os.close(given["report"])
    try:
        _fork_children(given["listener"], given["alive"])
    finally:
        with suppress(OSError):
            Path(given["socket"]).unlink()
            Path(given["socket"]).parent.rmdir()
        os._exit(0)  # what the application has registered for an exit is for its children to do


def _fork_children(listening: int, alive: int) -> None:
    """Fork one for each order, until no process holds the other end of ``alive`` any more, or a fork fails."""
    handler = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps them
    with socket.socket(fileno=listening) as listener:
        poll = (
            select.poll()
        )  # descriptors have the numbers that they have in the worker, which may be above select's 1023
        for descriptor in (listening, alive):
            poll.register(descriptor, select.POLLIN)
        while alive not in (found for found, _ in poll.poll()):
            with suppress(ConnectionAbortedError), listener.accept()[0] as connection:
                if os.fork() == 0:
                    listener.close()
                    os.close(alive)
                    signal.signal(signal.SIGCHLD, handler)
                    _be_a_child(connection)


def _be_a_child(connection: socket.socket) -> NoReturn:
    """The whole life of a child, in the order of any Python program. Its exit handlers it has run by itself."""
    status, pipe = 1, -1
    try:
        order, pipe, (frames, jobs, *trackers) = receive_order(connection)
        for tracker in trackers:
            share_tracker(tracker)
        multiprocessing.current_process().name = order.name
        os.chdir(order.folder)
        live(socket.socket(fileno=frames), socket.socket(fileno=jobs), order.setup)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - nothing above would say what it was
        sys.excepthook(*sys.exc_info())
    finally:
        flush()
        with suppress(OSError):
            tell(pipe, status)
        os._exit(status)


def _preloaded(preload: str, setup: ChildSetup, log: LogSetup | None) -> dict[str, object]:
    before, error = _sockets(), None
    try:
        if preload in ("auto", "always"):
            _, hooks = load(setup)
            if log is not None and not hooks.setup_logging:
                log.apply()  # a child finds the handler, and makes and copies nothing for it
        elif preload != "never":
            import_module(preload)
    except BaseException as raised:  # noqa: BLE001 - importing an application runs any code; its children tell what is wrong
        error = f"{type(raised).__name__}: {raised}"
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    sockets = [_described(descriptor) for descriptor in sorted(_sockets() - before)]
    return {"threads": threads[:_TOLD], "sockets": sockets[:_TOLD], "error": error}


def _sockets() -> set[int]:
    """The descriptors of this process that are sockets."""
    found = set()
    with suppress(OSError):
        for entry in Path("/dev/fd").iterdir():
            with suppress(OSError, ValueError):
                if stat.S_ISSOCK(os.fstat(int(entry.name)).st_mode):
                    found.add(int(entry.name))
    return found


def _described(descriptor: int) -> str:
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
        if one.family == socket.AF_UNIX:
            return f"a Unix socket {_place(one) or 'without a name'}"
        return f"a socket to {_place(one) or 'nowhere'}"
    return f"descriptor {descriptor}"


def _place(one: socket.socket) -> str:
    place: object = ""
    with suppress(OSError):
        place = one.getsockname()
    with suppress(OSError):
        place = one.getpeername() or place
    if isinstance(place, tuple):
        return f"{place[0]}:{place[1]}"
    return place.decode(errors="replace") if isinstance(place, bytes) else str(place)
