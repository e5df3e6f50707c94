"""Stem as a guest in a Celery prefork worker: how soon a task stops, and what the guest costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from celery import Celery

from benchmarks.figures import Figure, Findings, ratio
from benchmarks.lab import BROKERS, Lab, Process, Usage, celery_worker
from benchmarks.rows.stopping import WARM_UP, one_stop, waiting
from stem_kombu import ControlClient
from stem_kombu.settings import Settings

#: No-op tasks of a turn, turns of each worker in a round, and tasks before the first turn.
TASKS, TURNS, WARM_UP_TASKS = 1000, 5, 3000


def measure(lab: Lab, found: Findings) -> None:
    for broker in BROKERS:
        stopping(lab, found, broker)
        cost(lab, found, broker)


def stopping(lab: Lab, found: Findings, broker: str) -> None:
    url, backend = lab.url(broker), lab.url("redis")
    stops, slots, checks = [], [], []

    def send(name: str, path: str) -> str:
        return str(client_app.send_task(name, [path]).id)

    client_app = Celery("client", broker=url, backend=backend, set_as_current=False)
    with lab.processes() as start, ControlClient(Settings.from_env({}, broker=url, backend=backend)) as client:
        celery_worker(start, url, backend, "alpha", "-c", "1", BENCH_CELERY_STEM="1").wait_for("ready.")
        for trial in range(20 * lab.rounds + WARM_UP):
            stop, slot = one_stop(client, send, lab.path("stop"))
            if trial >= WARM_UP:
                stops.append(stop)
                slots.append(slot)
        for _ in range(lab.rounds):
            path = lab.path("checkpoint")
            client_app.send_task("bench.checkpoints", [str(path), 300_000])
            while not path.exists() or not path.read_text():
                time.sleep(0.01)
            checks.append(float(path.read_text()) / 1000)
    client_app.close()
    found.add(
        Figure(f"{broker}: revoke stored to TaskRevoked in a Celery child", stops, "ms", "p99 30 at most"),
        Figure(f"{broker}: the same child begins its next task", slots, "ms", "20 at most"),
        Figure(f"{broker}: checkpoint() in a Celery task", checks, "us", "1 at most"),
    )


def cost(lab: Lab, found: Findings, broker: str) -> None:
    """Memory of idle workers, and no-op tasks a second, without and with the guest. Both run at the same time and work in turns,
    so that what else the machine does falls on both."""
    sizes: dict[str, list[float]] = {"0": [], "1": []}
    totals: dict[str, list[float]] = {"0": [], "1": []}
    rates: dict[str, list[float]] = {"0": [], "1": []}
    for _ in range(lab.rounds):
        with lab.processes() as start:
            workers = {guest: Contestant(lab, start, broker, guest) for guest in ("0", "1")}
            time.sleep(1)
            for guest, worker in workers.items():
                sizes[guest].append(memory(worker.process))
                totals[guest].append(Usage.of(worker.process.popen.pid).pss_mb)
            for worker in workers.values():
                worker.rate(lab, WARM_UP_TASKS)  # its start does not count
            for turn in range(TURNS):
                for guest, worker in sorted(workers.items(), reverse=bool(turn % 2)):
                    rates[guest].append(worker.rate(lab, TASKS))
        for worker in workers.values():
            worker.client.close()
    figures = {
        guest: Figure(f"{broker}: no-op tasks, {'with' if guest == '1' else 'without'} Stem", rates[guest], "a s")
        for guest in rates
    }
    found.add(*figures.values())
    found.add(
        ratio(f"{broker}: throughput with Stem against without", figures["1"], figures["0"], "0.97 at least"),
        Figure(
            f"{broker}: resident memory that it adds to an idle parent",
            [after - before for before, after in zip(sizes["0"], sizes["1"], strict=True)],
            "MB",
            "5 at most",
        ),
        Figure(
            f"{broker}: memory that it adds to the worker and its two children (PSS)",
            [after - before for before, after in zip(totals["0"], totals["1"], strict=True)],
            "MB",
        ),
    )


class Contestant:
    """A worker with a broker of its own, and a client that sends to it."""

    def __init__(self, lab: Lab, start: Callable[..., Process], broker: str, guest: str) -> None:
        url, backend = lab.url(broker), lab.url("redis")
        self.client = Celery("client", broker=url, set_as_current=False)
        self.process = celery_worker(
            start, url, backend, "alpha", "-c", "2", BENCH_CELERY_STEM=guest, BENCH_CELERY_TUNED="1"
        )
        self.process.wait_for("ready.")

    def rate(self, lab: Lab, tasks: int) -> float:
        """No-op tasks a second, from the first one sent to the last one run."""
        marks = lab.path("marks")
        with self.client.producer_pool.acquire(block=True) as producer:
            began = time.monotonic()
            for _ in range(tasks):
                self.client.send_task("bench.no_op", producer=producer)
            self.client.send_task("bench.mark", [str(marks)], producer=producer)
        (_, _, at) = waiting(marks, "marked", 60)[0]
        return tasks / (float(at) - began)


def memory(worker: Process) -> float:
    """Resident MB of the worker's parent process."""
    return int(Path(f"/proc/{worker.popen.pid}/statm").read_text().split()[1]) * 4096 / 1e6
