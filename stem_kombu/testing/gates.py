"""Gates: a handler stops at a known point until a test lets it go, in this process or in any other.

A gate is a folder; reaching it and opening it are files that appear atomically, so that it works across processes
whatever their start method, and a task's arguments can carry it as a path.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from stem_kombu.clock import SYSTEM

_PAUSE = 0.002


class Gate:
    """``Gate(folder)`` in the test and ``Gate(path)`` in the handler are the same gate."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def path(self) -> str:
        """What a task's arguments carry."""
        return str(self._folder)

    # -- the handler's side -------------------------------------------------------------------------------------------

    def reach(self, note: str = "reached") -> None:
        """Tell the test that the handler is here."""
        target = self._folder / f"at-{note}"
        draft = self._folder / f".{note}.{os.getpid()}.{id(self)}"
        draft.write_text(str(os.getpid()))
        draft.rename(target)

    def wait_open(self, timeout: float = 60.0, checkpoint: Callable[[], object] | None = None) -> None:
        """Wait until the test opens the gate, calling ``checkpoint`` all the while; ``TimeoutError`` if it never does."""
        deadline = SYSTEM.monotonic() + timeout
        while not (self._folder / "open").exists():
            if checkpoint is not None:
                checkpoint()
            if SYSTEM.monotonic() > deadline:
                raise TimeoutError(f"gate {self._folder} was not opened within {timeout:g} s")
            SYSTEM.sleep(_PAUSE)

    # -- the test's side ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Let every handler that waits here go on, now and later."""
        (self._folder / "open").touch()

    def reached(self, note: str = "reached") -> int | None:
        """The process that reached the gate, ``None`` when none has yet."""
        try:
            return int((self._folder / f"at-{note}").read_text())
        except FileNotFoundError:
            return None

    def wait_reached(self, note: str = "reached", timeout: float = 60.0) -> int:
        """The process that reached the gate; ``TimeoutError`` when none does."""
        deadline = SYSTEM.monotonic() + timeout
        while (pid := self.reached(note)) is None:
            if SYSTEM.monotonic() > deadline:
                raise TimeoutError(f"gate {self._folder} was not reached ({note}) within {timeout:g} s")
            SYSTEM.sleep(_PAUSE)
        return pid
