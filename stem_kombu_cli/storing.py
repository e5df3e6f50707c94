"""Ctrl-C while a store writes: the write is let end, so that the command can say whether it holds."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from stem_kombu.errors import StoreLate
from stem_kombu_cli.render import note


class Storing:
    """Within the block, the first Ctrl-C before :meth:`done` is kept until then; the second is obeyed at once.

    A store's write is all or nothing and is waited for until the command's deadline; a client that leaves in the middle of it
    can't tell which it was. ``in_doubt``: the deadline, or a second Ctrl-C, made it leave all the same.
    """

    def __init__(self) -> None:
        self.in_doubt = False
        self._asked = False
        self._previous: Any = None
        self._installed = False

    def __enter__(self) -> Storing:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._interrupt)
            self._installed = True
        return self

    def done(self) -> None:
        """The store holds what was asked; raises ``KeyboardInterrupt`` if that was wanted meanwhile."""
        self._restore()
        if self._asked:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()
        if self._asked and kind is not None and not issubclass(kind, KeyboardInterrupt):
            self.in_doubt = issubclass(kind, StoreLate)
            raise KeyboardInterrupt from value  # the write failed: nothing is stored, unless it was only late

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self.in_doubt = True
            raise KeyboardInterrupt
        self._asked = True
        note("note: the store is writing; the command ends when it has (Ctrl-C again: at once)")

    def _restore(self) -> None:
        if self._installed:
            self._installed = False
            signal.signal(signal.SIGINT, self._previous)
