"""What workers cost that have nothing to do: memory, each page counted once, and processor time; and how soon they are ready."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.figures import Figure, Findings, ratio
from benchmarks.lab import Lab, Process, Usage, celery_worker, stem_worker

CHILDREN = (0, 2, 16)
QUIET = 5.0


def measure(lab: Lab, found: Findings) -> None:
    for broker in ("redis", "rabbitmq"):
        for children in CHILDREN:
            settings, theirs, backend = lab.settings(lab.url(broker)), lab.url(broker), lab.url("redis")

            def stem(start: Callable[..., Process]) -> tuple[Process, str]:
                # Without isolated tasks a worker needs no children, and has none.
                app = ("-A", "benchmarks.tasks:inline_app") if not children else ("-c", str(children))  # noqa: B023
                return stem_worker(start, settings, "w", *app), "ready:"  # noqa: B023

            def celery(start: Callable[..., Process]) -> tuple[Process, str]:
                pool = ("-P", "solo") if not children else ("-c", str(children))  # noqa: B023
                return celery_worker(start, theirs, backend, "w", *pool), "ready."  # noqa: B023

            figures: dict[str, list[Figure]] = {}
            for name, begin in (("stem", stem), ("celery", celery)):
                ready, memory, cpu = [], [], []
                for _ in range(max(2, lab.rounds // 2)):
                    with lab.processes() as start:
                        began = time.monotonic()
                        process, word = begin(start)
                        process.wait_for(word)
                        ready.append(time.monotonic() - began)
                        time.sleep(2)
                        before = Usage.of(process.popen.pid)
                        time.sleep(QUIET)
                        after = Usage.of(process.popen.pid)
                        memory.append(after.pss_mb)
                        cpu.append((after.cpu - before.cpu) / QUIET * 1000)
                what = f"{broker}: {name}, {children} children"
                figures[name] = [
                    Figure(f"{what}: memory (PSS)", memory, "MB"),
                    Figure(f"{what}: processor time a second", cpu, "ms"),
                    Figure(f"{what}: start to ready", ready, "s"),
                ]
                found.add(*figures[name])
            goal = "0.6 at most" if children == 2 else ""
            found.add(
                ratio(
                    f"{broker}: memory against celery's, {children} children",
                    figures["stem"][0],
                    figures["celery"][0],
                    goal,
                )
            )
