"""A worker that holds a million live revocations: how soon it consumes, in what memory, and what a look-up costs."""

from __future__ import annotations

import itertools
import statistics
import time
import uuid
from datetime import timedelta
from pathlib import Path

from benchmarks.figures import Figure, Findings
from benchmarks.lab import Lab, stem_worker
from benchmarks.revocations import in_new_process
from stem_kombu.revocation import RevocationDraft
from stem_kombu.stores.registry import open_revoke_store

RECORDS = 1_000_000
BATCH = 20_000
KEPT = timedelta(days=1)


def measure(lab: Lab, found: Findings) -> None:
    for kind in ("redis", "postgres", "embedded"):
        backend = lab.url(kind)
        settings = lab.settings(lab.url("redis"), backend)
        with lab.processes() as start:
            empty, before = begin(start, settings)
        store = open_revoke_store(backend)
        drafts = (RevocationDraft(str(uuid.uuid4()), True, "a bad deploy", "operator@host") for _ in range(RECORDS))
        began = time.monotonic()
        while batch := list(itertools.islice(drafts, BATCH)):
            store.save(settings.namespace, batch)
        stored = time.monotonic() - began
        store.close()
        times, sizes = [], []
        for _ in range(max(1, lab.rounds // 2)):
            with lab.processes() as start:
                took, size = begin(start, settings)
            times.append(took)
            sizes.append((size - before) / 1e6)
        found.add(
            Figure(f"{kind}: storing {RECORDS:,} records", [stored], "s"),
            Figure(f"{kind}: start to consuming with none", [empty], "s"),
            Figure(f"{kind}: start to consuming with {RECORDS:,}", times, "s", "15 at most"),
            Figure(f"{kind}: resident memory they add to the worker", sizes, "MB", "250 at most"),
        )
    cache = in_new_process(RECORDS)
    found.add(
        Figure("look-up of an id that is not revoked", [cache["absent_ns"] / 1000], "us", "1 at most"),
        Figure("look-up of an id that is", [cache["held_ns"] / 1000], "us", "1 at most"),
    )


def begin(start: object, settings: object) -> tuple[float, float]:
    """Seconds from the start of a worker's process to its first consuming, and its resident bytes."""
    began = time.monotonic()
    process = stem_worker(start, settings, "alpha", "-c", "1")  # type: ignore[arg-type]
    process.wait_for("ready:", 120)
    took = time.monotonic() - began
    sizes = []
    for _ in range(5):
        time.sleep(0.1)
        sizes.append(int(Path(f"/proc/{process.popen.pid}/statm").read_text().split()[1]) * 4096)
    return took, statistics.median(sizes)
