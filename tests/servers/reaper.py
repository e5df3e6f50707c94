"""Kills the servers of a test session that ended without stopping them, by SIGKILL too.

Runs as a process of its own, with nothing but the standard library:  reaper.py PARENT_PID
It reads orders from its standard input, one a line: ``kill PID``, ``forget PID``, ``remove DIRECTORY``. When its input
ends, or its parent is no more (children of the session may hold the other end of the pipe open), it carries them out.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys


def main() -> None:
    parent = int(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the session, which stops its servers properly
    pids: list[int] = []
    directories: list[str] = []
    unread = b""
    while True:
        if not select.select([0], [], [], 0.5)[0]:
            if os.getppid() == parent:
                continue
            break  # only now: the last orders may have been waiting while the parent died
        read = os.read(0, 65_536)
        if not read:
            break
        *lines, unread = (unread + read).split(b"\n")
        for line in lines:
            verb, _, what = line.decode().partition(" ")
            if verb == "kill":
                pids.append(int(what))
            elif verb == "forget" and int(what) in pids:
                pids.remove(int(what))
            elif verb == "remove":
                directories.append(what)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended in the meantime
            os.killpg(pid, signal.SIGKILL)  # each server leads a group of its own
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
