"""How long a coroutine that sends and waits keeps its event loop from going on, also while the broker is silent."""

from __future__ import annotations

import json
import subprocess
import sys
from urllib.parse import urlsplit, urlunsplit

from benchmarks.figures import Figure, Findings
from benchmarks.lab import BROKERS, ROOT, Lab, stem_worker
from stem_kombu.testing.proxy import TcpProxy

GOALS = {"a silent broker": "20 at most"}


def measure(lab: Lab, found: Findings) -> None:
    for broker in BROKERS:
        url = lab.url(broker)
        settings = lab.settings(url)
        gaps: dict[str, list[float]] = {}
        with lab.processes() as start:
            stem_worker(start, settings, "one", "-c", "1").wait_for("ready:")
            for number in range(lab.rounds + 1):
                for what, gap in caller(url, str(settings.backend.value)).items():
                    if number:  # the first one fills the system's caches
                        gaps.setdefault(what, []).append(gap)
        found.add(
            *(
                Figure(f"{broker}, longest time between two passes: {what}", all_of_it, "ms", GOALS.get(what, ""))
                for what, all_of_it in gaps.items()
            )
        )


def caller(broker: str, backend: str) -> dict[str, float]:
    """What :mod:`benchmarks.coroutine` finds in a new process, whose broker falls silent once it says so."""
    there = urlsplit(broker)
    with TcpProxy(there.hostname or "", there.port or 0) as proxy:
        credentials = there.netloc.rpartition("@")[0]
        place = f"{credentials + '@' if credentials else ''}{proxy.host}:{proxy.port}"
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.coroutine", urlunsplit(there._replace(netloc=place)), backend],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "warm\n"
        proxy.stall()
        said = process.communicate("\n", timeout=60)[0]
        return {str(what): float(gap) for what, gap in json.loads(said).items()}
