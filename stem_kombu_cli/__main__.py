"""``stem``, and ``python -m stem_kombu_cli``: so little that Ctrl-C finds no moment in which Python would answer it."""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import NoReturn

#: Objects between two collections of garbage. A command makes hardly any, and loading modules is most of its work.
_SELDOM = 50_000


def main() -> NoReturn:
    """Run the program and exit with its code."""
    gc.set_threshold(_SELDOM, 10, 10)
    open_closed_streams()
    try:
        # Here, because it takes most of the time of a short command: a user who interrupts it wants no traceback.
        from stem_kombu_cli.main import run
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        raise SystemExit(130) from None
    leave(run(sys.argv[1:]))


def open_closed_streams() -> None:
    """Lead each stream that was closed before we began (``>&-``, as some schedulers do) to nowhere.

    Python has none then, and its descriptor would become that of a connection: what a library writes to it went to a broker.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: its own
            os.set_inheritable(nowhere, True)
            setattr(sys, name, open(nowhere, mode))  # noqa: PTH123,SIM115 - a descriptor, and for good


def leave(code: int) -> NoReturn:
    """Exit; without taking every module apart first, where nothing waits for that. It is a sixth of a short command."""
    waited_for = any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate())
    if waited_for or "stem_kombu.execution.pool.pool" in sys.modules or sys.gettrace() is not None:
        sys.exit(code)  # a pool's children are seen off by exit handlers
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(code)  # Python knows what to do about a reader that has gone
    os._exit(code)


if __name__ == "__main__":
    main()
