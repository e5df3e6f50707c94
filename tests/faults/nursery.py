"""Workers by fork: ``python -m tests.faults.nursery`` loads everything once and forks a worker for each line of JSON it reads.

What a line holds is what ``tests.faults.process`` takes, and ``log``: the file that gets its output. Answers with the pid
of each. A worker is an ordinary process then; only its start costs a tenth, so that hundreds can be killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import psycopg2  # noqa: F401 - loaded once, for all
import redis  # noqa: F401
from kombu.transport import pyamqp  # noqa: F401
from kombu.transport import redis as redis_transport  # noqa: F401

from tests.faults import app, bursting, counting, routed, steered  # noqa: F401
from tests.faults.process import main


def serve() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for line in sys.stdin:
        options = json.loads(line)
        log = options.pop("log")
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out, 1)
            os.dup2(out, 2)
            code = 1
            try:
                main(json.dumps(options))
                code = 0
            except BaseException as error:  # noqa: BLE001 - the end of the process
                print(repr(error), file=sys.stderr, flush=True)
            finally:
                os._exit(code)
        print(pid, flush=True)


class Fostered:
    """A worker that somebody else forked, with the part of ``Popen`` that the suite uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """Something when it has ended; how can't be known."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return 0
        return 0 if state == "Z" else None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} has not ended within {timeout} s")
            time.sleep(0.01)
        return 0


if __name__ == "__main__":
    serve()
