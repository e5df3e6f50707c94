"""A terminal with a screen: a program runs on it, a test types and reads what stands there."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyte
from wcwidth import wcwidth

from tests.waiting import eventually


class Terminal:
    """``argv`` on a terminal of its own with so many lines and columns, as xterm emulates it. ``close()`` ends it."""

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, lines: int = 24, columns: int = 80
    ) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.Stream(self._screen)
        self._lock = threading.Lock()
        self._ours, theirs = pty.openpty()
        self._set_size(lines, columns)
        self.process = subprocess.Popen(
            argv,
            env={**env, "TERM": "xterm-256color"},
            cwd=cwd,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_takes_the_terminal,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def rows(self) -> list[str]:
        """What each line of the screen shows."""
        with self._lock:
            return [row.rstrip() for row in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.rows)

    def shows_inverse(self, text: str) -> bool:
        """Whether that text stands somewhere with its colours turned round, as a button that has the focus does."""
        with self._lock:
            for number, row in enumerate(self._screen.display):
                at, cells = row.find(text), self._screen.buffer[number]
                if at >= 0 and all(cells[at + offset].reverse for offset in range(len(text))):
                    return True
        return False

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def until(self, *texts: str, without: str | None = None, timeout: float = 30.0) -> str:
        """The screen, once it shows all of these, and not the other."""
        return self.until_so(
            lambda shown: all(text in shown for text in texts) and (without is None or without not in shown), timeout
        )

    def until_so(self, holds: Callable[[str], bool], timeout: float = 30.0) -> str:
        """The screen, once that is true of it."""
        return eventually(lambda: (shown := self.text) if holds(self.text) else None, timeout, lambda: self.text)

    def resize(self, lines: int, columns: int) -> None:
        """As a person who pulls at the window's corner."""
        with self._lock:
            self._screen.resize(lines, columns)
        self._set_size(lines, columns)

    def code(self) -> int:
        """The exit code, once the program has ended."""
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(10)
        os.close(self._ours)

    def _set_size(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> None:
        text = codecs.getincrementaldecoder("utf-8")()
        while True:
            try:
                read = os.read(self._ours, 65536)
            except OSError:  # the program is gone
                return
            with self._lock:
                self._stream.feed(text.decode(read))


def _takes_the_terminal() -> None:
    """Its keys and the signals of its size are for this process."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def width(text: str) -> int:
    """In how many cells of a terminal the text stands."""
    return sum(max(0, wcwidth(char)) for char in text)
