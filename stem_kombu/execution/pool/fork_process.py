"""The process that forks children: it loads what they share, looks at what that left behind, and forks.

A fork copies memory, but no threads, and shares open sockets. What an import leaves of these would be a lock that is never
released, or one connection for all children; then it starts over without the application, and each child imports for itself.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import stat
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from billiard import forkserver

from stem_kombu.execution.child.loading import load
from stem_kombu.execution.child.setup import ChildSetup
from stem_kombu.execution.signals import leave_signals_to_the_worker

#: What ``python -c`` is given to run, before the arguments of :func:`main` as JSON.
CODE = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given['path'];"
    " from stem_kombu.execution.pool.fork_process import main; main(given)"
)
#: Names of threads and sockets that are told.
_TOLD = 5


def main(given: Mapping[str, Any]) -> None:
    """``given``: descriptors ``listener``, ``alive`` and ``report``, ``socket`` (a path), ``preload``, ``setup`` (fields of
    :class:`ChildSetup`), ``command`` (how this process was started) and, after it has started over, ``found``."""
    leave_signals_to_the_worker()
    found = given.get("found")
    if found is None:
        found = _preloaded(
            given["preload"], ChildSetup(**{**given["setup"], "modules": tuple(given["setup"]["modules"])})
        )
        leave_signals_to_the_worker()
        if given["preload"] == "auto" and (found["threads"] or found["sockets"]):
            os.execv(given["command"][0], [*given["command"], json.dumps({**given, "found": found})])  # noqa: S606
    for name in ("stem_kombu.execution.child.main", "billiard.popen_forkserver"):
        import_module(name)  # what each child would load for itself, the second one as it is unpickled
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, all of it
    with suppress(OSError):
        os.write(given["report"], json.dumps(found).encode())
    os.close(given["report"])
    try:
        forkserver.main(given["listener"], given["alive"], [])
    finally:
        with suppress(OSError):
            Path(given["socket"]).unlink()
            Path(given["socket"]).parent.rmdir()
        os._exit(0)  # what the application has registered for an exit is for its children to do


def _preloaded(preload: str, setup: ChildSetup) -> dict[str, object]:
    before, error = _sockets(), None
    try:
        if preload in ("auto", "always"):
            load(setup)
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
