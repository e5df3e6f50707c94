"""A program that runs on a terminal, and a person who types at it."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cli.program import Done


def at_terminal(argv: Sequence[str], typed: str, *, env: Mapping[str, str], cwd: Path) -> Done:
    """Run ``argv`` with a terminal on stdin and stderr, at which ``typed`` is typed ahead. What the terminal shows, echo
    included, is in ``err``."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(argv, env={**env}, cwd=cwd, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = shown_at(ours)
    assert process.stdout is not None
    out = process.stdout.read()
    process.stdout.close()
    return Done(process.wait(90), out.decode(), shown.replace("\r\n", "\n"))


def shown_at(ours: int) -> str:
    """All that a terminal shows until its other end is gone; closes this end."""
    shown = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # the terminal's other end is gone
            break
        if not read:
            break
        shown += read
    os.close(ours)
    return shown.decode()
