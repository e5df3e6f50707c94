"""Workers that cease to consume: how long a probe still calls them ready (G34)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from stem_kombu.health_page import Health, Page, file_name, folders, health_of
from stem_kombu.testing.proxy import TcpProxy
from tests.faults.report import Target
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.faults.fleet import WorkerProcess
    from tests.faults.targets import Lab

#: Seconds after which a worker that has ceased to consume must not be ready.
NOT_READY_WITHIN = 45.0
#: How a worker ceases to: its process is suspended, its broker says nothing any more, has forgotten the connection, or
#: refuses connections.
WAYS = ("suspended", "stalled", "half-open", "refused")
#: Workers at a time for each way, and seconds between two looks.
EACH, LOOK = 2, 0.5


class _Victim:
    """A worker, with its own way to the broker."""

    def __init__(self, here: Lab, name: str, how: str) -> None:
        self.name, self.how, self._here = name, how, here
        url = urlsplit(here.urls["broker"])
        assert url.port is not None
        self._proxy = TcpProxy(url.hostname or "", url.port)
        self._proxy.start()
        user = f"{url.netloc.rpartition('@')[0]}@" if "@" in url.netloc else ""
        self._url = urlunsplit(url._replace(netloc=f"{user}{self._proxy.host}:{self._proxy.port}"))
        environment = {**os.environ, "XDG_STATE_HOME": str(here.folder)}
        self.path = f"{folders(environment, 'stem')[0]}/{file_name(name)}"

    def begin(self) -> WorkerProcess:
        self._worker = self._here.begin_worker(self.name, app="tests.faults.counting", broker=self._url)
        return self._worker

    def health(self) -> Health:
        return health_of(Page.at(self.path), time.monotonic())

    def exit_code(self) -> int:
        """That of the probe itself."""
        run = [sys.executable, "-m", "stem_kombu_cli.stem_health", "--file", self.path]
        return subprocess.run(run, capture_output=True, timeout=60, check=False).returncode

    def strike(self) -> None:
        if self.how == "suspended":
            os.kill(self._worker.process.pid, signal.SIGSTOP)
        elif self.how == "refused":
            self._proxy.stop()
        else:
            if self.how == "half-open":
                self._proxy.half_open()
            self._proxy.stall()  # a new connection gets no answer either

    def heal(self) -> None:
        if self.how == "suspended":
            os.kill(self._worker.process.pid, signal.SIGCONT)
        elif self.how == "refused":
            self._proxy.start()
        else:
            self._proxy.resume()

    def close(self) -> None:
        self._proxy.stop()


def ceased(here: Lab, broker: str, trials: int, patience: float) -> tuple[Target, dict[str, float]]:
    """Of ``trials`` workers that cease to consume, those that a probe calls ready 45 s later, or, unless they are suspended
    themselves, not live; or that are not ready again once they can consume."""
    bad = done = 0
    longest = 0.0
    while done < trials:
        victims = [_Victim(here, f"w{number}", WAYS[number % len(WAYS)]) for number in range(EACH * len(WAYS))]
        workers = [victim.begin() for victim in victims]
        try:
            for victim, worker in zip(victims, workers, strict=True):
                assert here.is_ready(worker), worker.log.read_text(errors="replace")
                eventually(_is_ready(victim), patience)
            for victim in victims:
                victim.strike()
            began, ready = time.monotonic(), list(victims)
            while ready and time.monotonic() < began + NOT_READY_WITHIN:
                time.sleep(LOOK)
                gone = [victim for victim in ready if not victim.health().ready]
                longest = max(longest, time.monotonic() - began) if gone else longest
                ready = [victim for victim in ready if victim not in gone]
            wrong = set(ready)
            for victim in victims:
                if victim.exit_code() != 1 or (victim.how != "suspended" and not victim.health().live):
                    wrong.add(victim)
                victim.heal()
            for victim in victims:
                eventually(_is_ready(victim), patience, f"{victim.name}, {victim.how}, is not ready again")
            bad, done = bad + len(wrong), done + len(victims)
            for worker in workers:
                here.end(worker, signal.SIGTERM)
        finally:
            for victim in victims:
                victim.close()
    what = f"workers that a probe called ready {NOT_READY_WITHIN:g} s after they had ceased to consume, or dead for it"
    return Target(f"{what}, {broker}", bad, done, 40), {
        f"Longest until such a worker was not ready, s, {broker}": round(longest, 1)
    }


def _is_ready(victim: _Victim) -> Callable[[], bool]:
    return lambda: victim.health().ready


#: By name, with the share of the usual trials.
ROWS = {"ceased": (ceased, 0.2)}
