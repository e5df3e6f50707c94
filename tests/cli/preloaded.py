"""Commands without the half second that Python takes to load what they need: forked from a process that has loaded it.

A test run starts some thousands of commands, and loading was most of its processor time. What is forked is the program's own
``main``, with its own arguments, environment, folder, streams and exit code, in a process of its own; a command that starts the
usual way stays the subject of the tests that use :meth:`tests.cli.program.Program.popen`, and of all of them with
STEM_TEST_EXEC=1.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from stem_kombu_cli.__main__ import main

STEM = str(Path(sysconfig.get_path("scripts")) / "stem")
ROOT = Path(__file__).parents[2]
#: Read by the interpreter before any code of ours: with another value of these a command has to be started anew.
_OF_THE_INTERPRETER = ("PYTHON", "LC_", "LANG", "LD_", "TZ", "COVERAGE")
#: What a command may load. Not the worker: it is started the usual way, and a pool's exit handlers are its own.
_LOADED = ("stem_kombu_cli", "stem_kombu.control", "stem_kombu.transports", "stem_kombu.stores", "stem_kombu.backends")
_LOADED_TOO = (
    "kombu.transport.redis", "kombu.transport.pyamqp", "kombu.transport.memory", "kombu.transport.sqlalchemy",
    "kombu.transport.filesystem", "psycopg2.extras", "redis.sentinel", "redis.cluster", "sqlite3", "asyncio", "ssl",
)  # fmt: skip#: Of extras, or with a life of their own.
_LEFT_OUT = re.compile(r"__main__|celery|\.top|\.demo|metric|telemetry|stem_health")


class Ended(NamedTuple):
    """What a command left."""

    code: int
    out: bytes
    err: bytes


class Preloaded:
    """A process that has loaded the command line, and forks one command at a time from itself."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.cli.preloaded", str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], env=_clean(os.environ))

    def run(
        self, arguments: Sequence[str], given: bytes, environment: Mapping[str, str], folder: Path, timeout: float
    ) -> Ended:
        """Run it to its end. Raises ``subprocess.TimeoutExpired`` after ``timeout`` seconds, and has killed it then."""
        with contextlib.ExitStack() as stack:
            request, stdin, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(4))
            request.write(json.dumps([list(arguments), dict(environment), str(folder)]).encode())
            stdin.write(given)
            for file in (request, stdin):
                file.seek(0)
            ours, theirs = socket.socketpair()
            with ours, theirs:
                descriptors = [file.fileno() for file in (request, stdin, out, err, theirs)]
                socket.send_fds(self._socket, [b"run"], descriptors)
                theirs.close()
                pid = int(_line(ours))
                ours.settimeout(timeout)
                try:
                    code = int(_line(ours))
                except TimeoutError:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(["stem", *arguments], timeout, _all(out), _all(err)) from None
            return Ended(code, _all(out), _all(err))

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def may_be_forked(environment: Mapping[str, str]) -> bool:
    """Whether a process with this environment would be like one that was forked from this one."""
    if os.environ.get("STEM_TEST_EXEC"):
        return False
    names = {name for name in (*environment, *os.environ) if name.startswith(_OF_THE_INTERPRETER)}
    return all(environment.get(name) == os.environ.get(name) for name in names)


def started(
    arguments: Sequence[str], given: bytes, environment: Mapping[str, str], folder: Path, timeout: float
) -> Ended:
    """Run ``stem`` as a shell does."""
    done = subprocess.run(
        [STEM, *arguments], input=given, env=environment, cwd=folder, capture_output=True, timeout=timeout, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def run(arguments: Sequence[str], given: bytes, environment: Mapping[str, str], folder: Path, timeout: float) -> Ended:
    """Run ``stem`` in the preloaded process of this one, which the first call starts."""
    global _preloaded
    with _lock:
        if _preloaded is None:
            _preloaded = Preloaded()
            atexit.register(_preloaded.close)
    return _preloaded.run(arguments, given, environment, folder, timeout)


_lock = threading.Lock()
_preloaded: Preloaded | None = None


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in environment.items() if not name.startswith("STEM_")}


def _line(stream: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"\n"):
        if not (piece := stream.recv(1)):
            raise ConnectionError("the process that forks commands has ended")
        found += piece
    return found


def _all(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


# -- the process itself -------------------------------------------------------------------------------------------------


def serve(control: socket.socket) -> None:
    """Fork a command for each request, until the other side is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait for commands are not waited for
    while True:
        message, received, _, _ = socket.recv_fds(control, 16, 5)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _command(*received)
            return  # in the command, whose way out is that of any other
        for descriptor in received:
            os.close(descriptor)


def _command(request: int, stdin: int, out: int, err: int, answers: int) -> None:
    """Go on in a process that is the command; the one that was forked first waits for it, and says how it ended."""
    if pid := os.fork():
        with socket.socket(fileno=answers) as stream:
            with contextlib.suppress(OSError):
                stream.sendall(b"%d\n" % pid)
            _, status = os.waitpid(pid, 0)
            with contextlib.suppress(OSError):
                stream.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    with os.fdopen(request, "rb") as file:
        arguments, environment, folder = json.load(file)
    for descriptor, number in ((stdin, 0), (out, 1), (err, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.close(answers)
    binary = [io.FileIO(number, "rw"[number > 0], closefd=False) for number in range(3)]
    sys.stdin = io.TextIOWrapper(io.BufferedReader(binary[0]), sys.stdin.encoding, sys.stdin.errors)
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(binary[1]), sys.stdout.encoding, sys.stdout.errors)
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(binary[2]), sys.stderr.encoding, sys.stderr.errors, line_buffering=True
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [STEM, *arguments]
    sys.path[0] = str(Path(STEM).parent)
    main()


def load() -> None:
    """Load what a command may need. An extra that is not installed stays away, as it would from the command."""
    for name in _LOADED:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not _LEFT_OUT.search(module.name):
                with contextlib.suppress(ImportError):
                    importlib.import_module(module.name)
    for name in _LOADED_TOO:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


if __name__ == "__main__":
    load()
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as _control:
        serve(_control)
