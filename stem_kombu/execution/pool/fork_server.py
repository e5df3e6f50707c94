"""The worker's side of the process that forks its children (:mod:`stem_kombu.execution.pool.fork_process`), one for each pool.

billiard's own is one for the whole program, knows no short folder for its socket, tells nothing about what it has loaded,
and has each child load and undo what billiard needs for its own processes.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from billiard import util

from stem_kombu import machine, timeouts
from stem_kombu.errors import ConfigurationError
from stem_kombu.execution.child.setup import ChildSetup
from stem_kombu.execution.interpreter import interpreter
from stem_kombu.execution.leftovers import environment_with_mark
from stem_kombu.execution.pool.fork_order import ForkedProcess, ForkOrder, send_order
from stem_kombu.execution.pool.fork_process import CODE
from stem_kombu.execution.signals import held_back

logger = logging.getLogger(__name__)

#: Bytes of a Unix socket's path that every system allows.
_LONGEST_PATH = 100
#: Where a socket may lie when the folder for temporary files has too long a name.
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - a folder of our own is made there, for this user alone


class ForkServer:
    """Started and stopped once."""

    def __init__(self, setup: ChildSetup) -> None:
        self._setup = setup
        self._address = ""
        self._alive = -1
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return once it has loaded what it is to load.

        Raises ``OSError`` where it can't be started, ``EOFError`` when it ended, and
        :class:`~stem_kombu.errors.ConfigurationError` where there is no interpreter.
        """
        folder = _short_folder()
        self._address = str(Path(folder) / "s")
        inner: list[int] = []
        reader = -1
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                listener.bind(self._address)
                listener.listen(128)
                alive, self._alive = os.pipe()
                inner.append(alive)
                reader, writer = os.pipe()
                inner.append(writer)
                self._process = self._started(listener.fileno(), alive, writer)
            except BaseException:
                self._remove(folder)
                raise
            finally:
                for descriptor in inner:
                    os.close(descriptor)
                if self._process is None and reader >= 0:
                    os.close(reader)
        try:
            self._tell(_read_report(reader))
        finally:
            os.close(reader)

    @property
    def descriptor(self) -> int:
        """It ends once every copy of this is closed."""
        return self._alive

    def fork(self, setup: ChildSetup, name: str, descriptors: Sequence[int]) -> ForkedProcess:
        """A new child with copies of those descriptors. Raises ``OSError`` and ``EOFError`` once this has ended."""
        return send_order(self._address, ForkOrder(setup, name, os.getcwd()), descriptors)  # noqa: PTH109

    def stop(self) -> None:
        """Let it end: it does once this is closed."""
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(2.0)
            self._process = None

    def _started(self, listener: int, alive: int, report: int) -> subprocess.Popen[bytes]:
        setup, log = self._setup, self._setup.log
        fields = {name: getattr(setup, name) for name in ("target", "modules", "main_name", "main_path")}
        # A configuration may hold anything, and is for each child to apply.
        is_plain = log is not None and log.config is None
        command = [interpreter(), *util._args_from_interpreter_flags(), "-c", CODE]
        given = {
            "path": [entry or os.getcwd() for entry in sys.path],  # noqa: PTH109 - text is what it takes
            "listener": listener,
            "alive": alive,
            "report": report,
            "socket": self._address,
            "preload": setup.preload,
            "setup": fields,
            "log": {name: getattr(log, name) for name in ("level", "format", "worker")} if is_plain else None,
            "command": command,
            "argv": sys.argv,
        }
        with held_back():
            return subprocess.Popen(
                [*command, json.dumps(given)],
                stdin=subprocess.DEVNULL,
                pass_fds=(listener, alive, report),
                env=environment_with_mark(),
            )

    def _tell(self, found: dict[str, Any]) -> None:
        """Log the threads and sockets that loading opened. An error in the application makes the children fail too, and they
        report it."""
        if found["error"] and self._setup.preload not in ("auto", "always"):
            raise ConfigurationError(
                f"--preload {self._setup.preload}: {found['error']}",
                hint="auto, always, never, or a module that can be imported",
            )
        left = [f"threads ({', '.join(found['threads'])})"] if found["threads"] else []
        left += [f"open sockets ({', '.join(found['sockets'])})"] if found["sockets"] else []
        if left and self._setup.preload == "auto":
            logger.warning(
                "importing the application opens %s, which forked children can't share: each child imports it for"
                " itself, which takes time and memory. Open them in @app.on_child_start, or at first use",
                " and ".join(left),
            )
        elif left:
            logger.warning(
                "the import of --preload %s opens %s, which all children share or lack",
                self._setup.preload,
                " and ".join(left),
            )

    def _remove(self, folder: str) -> None:
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1
        with suppress(OSError):
            Path(self._address).unlink(missing_ok=True)
            Path(folder).rmdir()


def _read_report(reader: int) -> dict[str, object]:
    body = b""
    while machine.is_readable(reader, timeouts.FORK_SERVER_LOAD):
        data = os.read(reader, 65_536)
        if not data:
            if body:
                found: dict[str, object] = json.loads(body)
                return found
            raise EOFError("it ended while it loaded the application")
        body += data
    raise EOFError(f"it did not load the application within {timeouts.FORK_SERVER_LOAD:g} s")


def _short_folder() -> str:
    """A new folder of this user alone, in which a Unix socket can have a path; raises ``OSError`` where there is none."""
    with suppress(OSError):
        usual = tempfile.gettempdir()
        for parent in (usual, *_SHORT_FOLDERS):
            # "/stem-", eight letters that tempfile draws, "/s"
            if len(os.fsencode(parent)) + 16 <= _LONGEST_PATH:
                with suppress(OSError):
                    return tempfile.mkdtemp(prefix="stem-", dir=parent)
    raise OSError(
        f"no folder for temporary files is writable and at most {_LONGEST_PATH - 16} bytes long; set TMPDIR to one"
    )
