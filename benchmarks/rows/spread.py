"""Storing and spreading revocations: from the call to the answer of both workers, and how it grows with their number."""

from __future__ import annotations

import time
import uuid

from benchmarks.figures import Figure, Findings, slope
from benchmarks.lab import Lab, stem_worker
from stem_kombu import ControlClient

SIZES = (1, 1000, 100_000)
#: Of one call; Redis takes no more than 50,000 at once.
BATCH = 20_000


def measure(lab: Lab, found: Findings) -> None:
    for broker, store in (("redis", "redis"), ("rabbitmq", "postgres")):
        settings = lab.settings(lab.url(broker), lab.url(store))
        name, medians = f"{broker}, store {store}", []
        with lab.processes() as start, ControlClient(settings) as client:
            for process in [stem_worker(start, settings, name, "-c", "1") for name in ("alpha", "bravo")]:
                process.wait_for("ready:")
            client.ping()
            for size in SIZES:
                stored, told = [], []
                for _ in range(lab.rounds if size < 100_000 else max(2, lab.rounds // 2)):
                    ids = [str(uuid.uuid4()) for _ in range(size)]
                    saved = answered = 0.0
                    for first in range(0, size, BATCH):
                        durable: list[float] = []
                        began = time.monotonic()
                        report = client.revoke(
                            ids[first : first + BATCH], expires_in=60, timeout=120,
                            on_stored=lambda _: durable.append(time.monotonic()),  # noqa: B023
                        )  # fmt: skip
                        assert report.complete, report.silent
                        saved += durable[0] - began
                        answered += time.monotonic() - durable[0]
                    stored.append(saved * 1000)
                    told.append(answered * 1000)
                found.add(
                    Figure(f"{name}: {size:,} revoked, durable", stored, "ms"),
                    Figure(f"{name}: {size:,} revoked, then taken by both workers", told, "ms"),
                )
                medians.append(sum(figure.median for figure in found.figures[-2:]))
        found.add(slope(f"{name}: growth from 1,000 to 100,000", SIZES[1:], medians[1:]))
