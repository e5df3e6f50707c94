"""What recording task states and looking at the roster costs.

    python benchmarks/backends.py URL [URL ...] [--seconds 0.5]

    python benchmarks/backends.py memory:// sqlite:////tmp/bench.db redis://127.0.0.1:6379/9 postgresql://u:p@127.0.0.1/d

For each backend: records a second in batches of 1, 32 and 256 (each task is recorded as running, then as succeeded, as a
worker does), the same with results of 10 kB in batches of 32, the median time of get(), of a beat, and of a roster's view
with 8 and with 1,000 workers. What it writes stays there: use an empty database.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
import uuid
from collections.abc import Callable, Iterator

from stem_kombu.backends.base import Backend
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.registry import open_backend
from stem_kombu.clock import SYSTEM
from stem_kombu.outcome import TaskRecord, TaskState


def records(result: object) -> Iterator[TaskRecord]:
    """Endless: a task's start, then its end, and the next task."""
    run = uuid.uuid4().hex[:8]
    for number in itertools.count():
        task_id, now = f"bench-{run}-{number}", SYSTEM.utcnow()
        for state in (TaskState.RUNNING, TaskState.SUCCEEDED):
            yield TaskRecord(
                task_id,
                "tasks.render",
                state,
                queue="default",
                worker="bench@host-1-0000",
                result=result if state.is_terminal else None,
                enqueued_at=now,
                started_at=now,
                ended_at=now if state.is_terminal else None,
            )


def records_a_second(backend: Backend, size: int, seconds: float, result: object = 4) -> float:
    source = records(result)
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        done += len(backend.record(list(itertools.islice(source, size))))
    return done / passed


def median_ms(act: Callable[[], object], seconds: float) -> float:
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < seconds or len(times) < 5:
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def heartbeat(namespace: str, number: int) -> Heartbeat:
    return Heartbeat(
        namespace=namespace,
        worker=f"bench@host-{number}-0000",
        boot=uuid.uuid4().hex,
        inbox=f"stem.{namespace}.inbox.{number}",
        interval=10.0,
        hostname="host.example",
        pid=4711,
        version="0.1.0",
        concurrency=8,
        queues=("default", "high", "low"),
        rss_bytes=80_000_000,
        load_avg=1.5,
        totals=dict.fromkeys(
            ("received", "started", "succeeded", "failed", "retried", "cancelled", "redelivered"), 12345
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="+", metavar="URL")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each figure")
    given = parser.parse_args()
    columns = ["1", "32", "256", "32x10kB", "get ms", "beat ms", "view 8 ms", "view 1000 ms"]
    print(f"{'BACKEND':<28}" + "".join(f"{column:>13}" for column in columns))
    for url in given.urls:
        backend = open_backend(url)
        backend.record(list(itertools.islice(records(None), 2)))
        figures = [records_a_second(backend, size, given.seconds) for size in (1, 32, 256)]
        figures.append(records_a_second(backend, 32, given.seconds, "x" * 10_000))
        last = next(records(None))
        backend.record([last])
        times = [median_ms(lambda: backend.get(last.task_id), given.seconds)]  # noqa: B023
        run = uuid.uuid4().hex[:8]
        times.append(median_ms(lambda: backend.beat(heartbeat(f"beat-{run}", 0)), given.seconds))  # noqa: B023
        for workers in (8, 1000):
            namespace = f"bench-{workers}-{run}"
            for number in range(workers):
                backend.beat(heartbeat(namespace, number))
            times.append(median_ms(lambda: backend.view(namespace), given.seconds))  # noqa: B023
        shown = [f"{figure:>13,.0f}" for figure in figures] + [f"{figure:>13.3f}" for figure in times]
        print(f"{backend.url.partition('://')[0]:<28}" + "".join(shown))
        backend.close()


if __name__ == "__main__":
    main()
