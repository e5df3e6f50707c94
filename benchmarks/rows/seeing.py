"""What it costs a worker to be seen: its processor time for a no-op task while ``/metrics`` is scraped once a second, for one
scrape, for one report by OTLP, and for the lines of each task's life at INFO.

Scrapes are switched on and off, in turns, in one worker that runs all the time: two workers differ by more than a scrape costs.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from urllib.request import urlopen

from benchmarks.contestants import Contestant, Start, stem
from benchmarks.figures import Figure, Findings
from benchmarks.lab import Lab, Process, Usage
from benchmarks.rows.throughput import marked
from stem_kombu.testing.ports import free_port
from tests.otlp_receivers import Receiver

TASKS = 10_000
BROKERS = ("redis", "rabbitmq")
KINDS = {"inline": ("--prefetch-multiplier", "8"), "isolate": ("-c", "2", "--prefetch-multiplier", "32")}
#: Seconds between two scrapes, and how many are taken of a worker that has nothing else to do.
INTERVAL, SCRAPES = 1.0, 200
#: Tasks between two turns of the switch, and how often it is turned on.
TURN, TURNS = 15_000, 8
#: Seconds between two reports by OTLP of a worker that has nothing else to do, and for how long.
REPORTS_EVERY, REPORTS_FOR = 0.1, 5.0


@dataclass(frozen=True)
class Variant:
    name: str
    options: tuple[str, ...] = ()


PLAIN = Variant("without")
VARIANTS = (
    PLAIN,
    Variant("log lines", ("-l", "info")),
    Variant("log lines as JSON", ("-l", "info", "--log-format", "json")),
)


def measure(lab: Lab, found: Findings) -> None:
    for broker in BROKERS:
        for kind, options in KINDS.items():
            spent: dict[str, list[float]] = {variant.name: [] for variant in VARIANTS}
            for round in range(lab.rounds):
                # Each begins a round in turn: what runs beside the benchmark strikes all alike.
                for variant in VARIANTS[round % len(VARIANTS) :] + VARIANTS[: round % len(VARIANTS)]:
                    spent[variant.name].append(once(lab, broker, kind, options, variant))
            for variant in VARIANTS:
                found.add(Figure(f"{broker}: {kind}, {variant.name}", spent[variant.name], "us/task"))
            for variant in VARIANTS[1:]:
                ratios = [one / base for one, base in zip(spent[variant.name], spent[PLAIN.name], strict=True)]
                found.add(Figure(f"{broker}: {kind}, {variant.name} against without", ratios, "x"))
                more = statistics.median(spent[variant.name]) - statistics.median(spent[PLAIN.name])
                found.add(Figure(f"{broker}: {kind}, {variant.name}, of a task", [more], "us"))
            ratios = [turn for _ in range(max(1, lab.rounds // 4)) for turn in switched(lab, broker, kind, options)]
            found.add(Figure(f"{broker}: {kind}, metrics against without", ratios, "x", "1.02 at most"))
            scrapes = [scrape(lab, broker, kind, options) for _ in range(lab.rounds)]
            # 2 % of one processor, where Prometheus comes once a second.
            found.add(Figure(f"{broker}: {kind}, a scrape", scrapes, "ms", "20 at most"))
            reports = [report(lab, broker, kind, options) for _ in range(lab.rounds)]
            found.add(Figure(f"{broker}: {kind}, a report by OTLP", reports, "ms", "20 at most"))


def switched(lab: Lab, broker: str, kind: str, options: tuple[str, ...]) -> list[float]:
    """A worker's processor time for a task while it is scraped, over that of the same worker right before, for each turn."""
    port, marks = free_port(), lab.path("marks")
    one, url = stem(kind, 1, *options, "--health-listen", f"127.0.0.1:{port}"), lab.url(broker)
    assert one.fill is not None
    with one.sender(url) as send:
        send("mark", [str(marks)])
        for _ in range(1 + 2 * TURNS):
            one.fill(url, TURN, [])
            send("mark", [str(marks)])
    with lab.processes() as start, Scraper(port) as scraper:
        begin, began = begun(start)
        one.workers(begin, url)
        marked(marks, 1, 120)
        read(port)  # the first imports prometheus_client
        marked(marks, 2, 300)
        spent = [Usage.of(began[0]).cpu]
        for number in range(2 * TURNS):
            scraper.is_on = number % 2 == 1
            marked(marks, 3 + number, 300)
            spent.append(Usage.of(began[0]).cpu)
    turns = [after - before for before, after in itertools.pairwise(spent)]
    return [scraped / plain for plain, scraped in zip(turns[::2], turns[1::2], strict=True)]


def scrape(lab: Lab, broker: str, kind: str, options: tuple[str, ...]) -> float:
    """Milliseconds of processor time that a worker takes for a scrape of ``/metrics``."""
    port = free_port()
    with idle(lab, broker, kind, (*options, "--health-listen", f"127.0.0.1:{port}")) as pid:
        read(port)  # the first imports prometheus_client
        before = Usage.of(pid).cpu
        for _ in range(SCRAPES):
            read(port)
        return (Usage.of(pid).cpu - before) / SCRAPES * 1000


def report(lab: Lab, broker: str, kind: str, options: tuple[str, ...]) -> float:
    """Milliseconds of processor time that a worker takes for a report by OTLP."""
    with contextlib.closing(Receiver()) as receiver:
        given = {"STEM_METRIC_EXPORTERS": f"otlp:{receiver.url}", "STEM_OTLP_INTERVAL": f"{REPORTS_EVERY:g}s"}
        with idle(lab, broker, kind, options, **given) as pid:
            while not receiver.requests:
                time.sleep(0.01)
            first, before = len(receiver.requests), Usage.of(pid).cpu
            time.sleep(REPORTS_FOR)
            return (Usage.of(pid).cpu - before) / (len(receiver.requests) - first) * 1000


@contextlib.contextmanager
def idle(lab: Lab, broker: str, kind: str, options: tuple[str, ...], **environment: str) -> Iterator[int]:
    """The process id of a worker that has run its only task."""
    marks, one, url = lab.path("marks"), stem(kind, 1, *options), lab.url(broker)
    with one.sender(url) as send:
        send("mark", [str(marks)])
    with lab.processes() as start:
        begin, began = begun(partial(start, **environment))
        one.workers(begin, url)
        marked(marks, 1, 120)
        yield began[0]


def read(port: int) -> None:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        answer.read()


def begun(start: Start) -> tuple[Start, list[int]]:
    """``start`` and the ids of the processes that it has begun."""
    began: list[int] = []

    def begin(*arguments: str, **environment: str) -> Process:
        process = start(*arguments, **environment)
        began.append(process.popen.pid)
        return process

    return begin, began


def once(lab: Lab, broker: str, kind: str, options: tuple[str, ...], variant: Variant) -> float:
    """Microseconds of processor time that the worker and its children take for a task."""
    one = stem(kind, 1, *options, *variant.options)
    url, marks = lab.url(broker), lab.path("marks")
    fill(one, url, str(marks))
    with lab.processes() as start:
        begin, began = begun(start)
        one.workers(begin, url)
        marked(marks, 1, 120)
        before = Usage.of(began[0]).cpu
        marked(marks, 2, 300)
        return (Usage.of(began[0]).cpu - before) / TASKS * 1e6


def fill(one: Contestant, url: str, marks: str) -> None:
    """The queue: a mark, the tasks, a mark."""
    assert one.fill is not None
    with one.sender(url) as send:
        send("mark", [marks])
        one.fill(url, TASKS, [])
        send("mark", [marks])


class Scraper:
    """Reads ``/metrics`` of the worker there every second while ``is_on``, as Prometheus does."""

    def __init__(self, port: int) -> None:
        self.is_on = False
        self._port = port
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ended.set()
        self._thread.join(15)

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL):
            if self.is_on:
                read(self._port)
