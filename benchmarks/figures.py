"""What a row of the benchmarks found, as lines for people and as JSON for machines."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured quantity. ``samples`` are in ``unit``; ``goal`` says what it is held against."""

    what: str
    samples: Sequence[float]
    unit: str
    goal: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def quantile(self, share: float) -> float:
        ordered = sorted(self.samples)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def line(self) -> str:
        spread = ""
        if len(self.samples) > 1:
            spread = f"  ({shown(min(self.samples))} to {shown(max(self.samples))}, n {len(self.samples)}"
            spread += f", p99 {shown(self.quantile(0.99))})" if len(self.samples) >= 100 else ")"
        goal = f"  goal {self.goal}" if self.goal else ""
        return f"  {self.what:<58} {shown(self.median):>9} {self.unit:<8}{spread}{goal}"


def shown(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def slope(what: str, sizes: Sequence[float], times: Sequence[float], goal: str = "") -> Figure:
    """How a time grows with a size: the slope of a line through the logarithms of both, 1 when twice takes twice."""
    xs, ys = [math.log(size) for size in sizes], [math.log(time) for time in times]
    return Figure(what, [statistics.linear_regression(xs, ys).slope], "slope", goal)


def ratio(what: str, above: Figure, below: Figure, goal: str = "") -> Figure:
    """The ratio of two medians that were measured in turns."""
    return Figure(what, [above.median / below.median], "x", goal)


@dataclass
class Findings:
    """What one row found."""

    row: str
    rounds: int = 5
    #: The machine's load average over a minute when the row began, and when it ended.
    load: list[float] = field(default_factory=lambda: [round(os.getloadavg()[0], 1)])
    figures: list[Figure] = field(default_factory=list)

    def add(self, *figures: Figure) -> None:
        self.figures += figures
        for figure in figures:
            print(figure.line(), flush=True)

    def write(self, folder: Path) -> Path:
        """Keep it as ``ROW.json``, with the versions that it was measured with."""
        folder.mkdir(parents=True, exist_ok=True)
        self.load.append(round(os.getloadavg()[0], 1))
        path = folder / f"{self.row}.json"
        found = [
            {**asdict(figure), "samples": [float(f"{s:.6g}") for s in figure.samples], "median": figure.median}
            for figure in self.figures
        ]
        kept = {"row": self.row, "machine": machine(), "rounds": self.rounds, "load": self.load, "figures": found}
        path.write_text(json.dumps(kept, indent=1) + "\n")
        return path


def machine() -> dict[str, object]:
    """What has to be the same for two figures to be compared."""
    versions = {}
    for package in (
        *("stem-kombu", "kombu", "billiard", "redis", "amqp", "celery", "dramatiq", "rq", "huey"),
        *("taskiq", "taskiq-redis", "taskiq-aio-pika"),
    ):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "servers": servers(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": os.cpu_count(),
        "versions": versions,
    }


def servers() -> dict[str, str]:
    """The versions of the servers that are installed here."""
    found = {}
    for name, command in (
        ("redis-server", ["redis-server", "--version"]),
        ("rabbitmq-server", ["dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server"]),
        ("postgres", ["psql", "--version"]),
    ):
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        except OSError:
            continue
        if version := re.search(r"\d+(\.\d+)+", said):
            found[name] = version[0]
    return found
