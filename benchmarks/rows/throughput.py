"""How many no-op tasks a second: a queue is filled, workers of two processes start, and the time from the first task to
the last is taken, so that starting does not count."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.contestants import Contestant, celery, dramatiq, floor, huey, rq, stem, taskiq
from benchmarks.figures import Figure, Findings, ratio
from benchmarks.lab import Lab, Process

TASKS = {"redis": 5000, "rabbitmq": 5000, "embedded": 2500}
#: Of them, as many are sent one by one, which is what the rate of sending is taken from; the rest at once where that can be.
SENT = 1000
CONTESTANTS = [
    stem("inline", 2, "--prefetch-multiplier", "8"),
    stem("async", 2, "--prefetch-multiplier", "8"),
    stem("isolate", 1, "-c", "2", "--prefetch-multiplier", "32"),
    celery("celery prefork, tuned", True, "-c", "2"),
    celery("celery solo, tuned, 2 processes", True, "-P", "solo", processes=2),
    dramatiq(),
    huey(),
    taskiq(),
    rq(),
    floor("bare kombu, 2 processes", "kombu"),
    floor("bare redis-py, 2 processes", "redis-py", "redis"),
    floor("bare redis-py, acknowledged, 2 processes", "redis-py-acknowledged", "redis"),
    floor("bare py-amqp, 2 processes", "py-amqp", "rabbitmq"),
]
GOALS = {
    "redis": (
        ("stem isolate", "celery prefork, tuned", "4 at least"),
        ("stem inline", "the fastest peer", "1.2 at least"),
        ("stem inline", "bare redis-py, acknowledged", "0.85 at least"),
    ),
    "rabbitmq": (
        ("stem isolate", "celery prefork, tuned", "2 at least"),
        ("stem inline", "the fastest peer", "1.2 at least"),
        ("stem inline", "bare kombu", "0.8 at least"),
    ),
    "embedded": (("stem inline", "huey", "1.2 at least"),),
}


def measure(lab: Lab, found: Findings) -> None:
    for broker, tasks in TASKS.items():
        contestants = [one for one in CONTESTANTS if broker in one.brokers]
        running: dict[str, list[float]] = {one.name: [] for one in contestants}
        sending: dict[str, list[float]] = {one.name: [] for one in contestants}
        together: list[float] = []
        for _ in range(lab.rounds):
            for one in contestants:
                try:
                    sent, filled, ran = once(lab, one, broker, tasks)
                except RuntimeError as error:
                    if one.name.startswith("stem"):
                        raise
                    # A peer whose workers hang at their start, which happened once in forty: an hour of rows is not lost by it.
                    print(f"  once more: {error}", flush=True)
                    sent, filled, ran = once(lab, one, broker, tasks)
                sending[one.name].append(sent)
                together += [filled] if filled is not None and one is contestants[0] else []
                running[one.name].append(ran)
        rates = {name: Figure(f"{broker}: {name}", samples, "tasks/s") for name, samples in running.items()}
        found.add(*rates.values())
        peers = [figure for name, figure in rates.items() if not name.startswith("stem")]
        libraries = [figure for figure in peers if "bare" not in figure.what]
        fastest = max(libraries, key=lambda figure: figure.median)
        for ours, theirs, goal in GOALS[broker]:
            above = next(figure for name, figure in rates.items() if name.startswith(ours))
            below = fastest if theirs == "the fastest peer" else next(f for f in peers if theirs in f.what)
            found.add(ratio(f"{broker}: {ours} against {below.what.partition(': ')[2]}", above, below, goal))
        sent = {name: Figure(f"{broker}: enqueue, {name}", samples, "tasks/s") for name, samples in sending.items()}
        ours = sent[contestants[0].name]
        many = Figure(f"{broker}: enqueue, {contestants[0].name}, send_many", together, "tasks/s")
        found.add(ours, many, *(figure for name, figure in sent.items() if not name.startswith("stem")))
        others = [figure for name, figure in sent.items() if not name.startswith(("stem", "bare"))]
        best = max(others, key=lambda figure: figure.median)
        if "celery prefork, tuned" in sent:
            by_celery = sent["celery prefork, tuned"]
            found.add(ratio(f"{broker}: enqueue against celery", ours, by_celery, "2 at least"))
            found.add(ratio(f"{broker}: enqueue by send_many against celery one by one", many, by_celery))
        found.add(ratio(f"{broker}: enqueue against {best.what.partition(', ')[2]}", ours, best, "1 at least"))


def once(lab: Lab, one: Contestant, broker: str, tasks: int, payload: str = "") -> tuple[float, float | None, float]:
    """Tasks a second: sent one by one by one process, sent at once (``None`` by who can't), and run by the workers."""
    url, marks = lab.url(broker), lab.path("marks")
    args = [payload] if payload else []
    with one.sender(url) as send:
        send("mark", [str(marks)])
        began = time.perf_counter()
        by_one = min(tasks, SENT)
        for _ in range(by_one):
            send("no_op", args)
        sent, filled = by_one / (time.perf_counter() - began), None
        if one.fill is not None:
            began = time.perf_counter()
            one.fill(url, tasks - by_one, args)
            filled = (tasks - by_one) / (time.perf_counter() - began)
        else:
            for _ in range(tasks - by_one):
                send("no_op", args)
        send("mark", [str(marks)])
        with lab.processes() as start:
            began_here: list[Process] = []

            def noted(*arguments: str, **environment: str) -> Process:
                began_here.append(start(*arguments, **environment))
                return began_here[-1]

            one.workers(noted, url)
            try:
                first, last = marked(marks, 2, 120)
            except RuntimeError as error:
                raise RuntimeError(f"{one.name} on {broker}: {error}\n{''.join(map(said, began_here))}") from None
    return sent, filled, (tasks + 1) / (last - first)


def said(process: Process) -> str:
    """The end of what the process has written, and how it ended."""
    end = process.log.read_text(errors="replace")[-2000:]
    return f"--- {process.popen.args}, exit code {process.popen.poll()}\n{end}\n"


def marked(path: Path, count: int, timeout: float) -> list[float]:
    """The times of that many marks, once they are there."""
    deadline = time.monotonic() + timeout
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= count:
            return sorted(float(line.split()[2]) for line in lines)
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {len(lines)} of {count} marks came")
        time.sleep(0.02)
