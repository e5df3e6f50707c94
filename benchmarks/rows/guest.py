"""Stem as a guest in a Celery prefork worker: how soon a task stops, and what the guest costs."""

from __future__ import annotations

import time
from pathlib import Path

from celery import Celery

from benchmarks.figures import Figure, Findings, ratio
from benchmarks.lab import BROKERS, Lab, Process, celery_worker
from benchmarks.rows.stopping import WARM_UP, one_stop, waiting
from stem_kombu import ControlClient
from stem_kombu.settings import Settings

TASKS = 3000


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
    """Memory of the idle parent and throughput of no-op tasks, without and with the guest in turns."""
    sizes: dict[str, list[float]] = {"0": [], "1": []}
    rates: dict[str, list[float]] = {"0": [], "1": []}
    for _ in range(lab.rounds):
        for guest in ("0", "1"):
            url, backend = lab.url(broker), lab.url("redis")
            client_app = Celery("client", broker=url, set_as_current=False)
            with lab.processes() as start, client_app.producer_pool.acquire(block=True) as producer:
                worker = celery_worker(
                    start, url, backend, "alpha", "-c", "2", BENCH_CELERY_STEM=guest, BENCH_CELERY_TUNED="1"
                )
                worker.wait_for("ready.")
                time.sleep(1)
                sizes[guest].append(memory(worker))
                marks = lab.path("marks")
                for _ in range(TASKS):
                    client_app.send_task("bench.no_op", producer=producer)
                client_app.send_task("bench.mark", [str(marks)], producer=producer)
                waiting(marks, "marked")  # the worker is warm now; its start does not count
                began = time.monotonic()
                marks = lab.path("marks")
                for _ in range(TASKS):
                    client_app.send_task("bench.no_op", producer=producer)
                client_app.send_task("bench.mark", [str(marks)], producer=producer)
                (_, _, at) = waiting(marks, "marked", 60)[0]
                rates[guest].append(TASKS / (float(at) - began))
            client_app.close()
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
    )


def memory(worker: Process) -> float:
    """Resident MB of the worker's parent process."""
    return int(Path(f"/proc/{worker.popen.pid}/statm").read_text().split()[1]) * 4096 / 1e6
