"""A worker that holds a million live revocations: how soon it consumes, in what memory, and what a look-up costs; and how much
later it consumes where a thousand directives are in force as well."""

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
from stem_kombu import ControlClient
from stem_kombu.control.client.directives import DirectiveClient
from stem_kombu.revocation import RevocationDraft
from stem_kombu.settings import Settings
from stem_kombu.stores.registry import open_revoke_store

RECORDS, DIRECTIVES = 1_000_000, 1_000
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
        times, sizes = starts(lab, settings)
        with ControlClient(settings) as client:
            for half in (0, DIRECTIVES // 2):  # a change holds 1,000 records, and its entry in the audit is one
                DirectiveClient(client).pause([f"queue-{half + number}" for number in range(DIRECTIVES // 2)])
        directed, _ = starts(lab, settings)
        sizes = [(size - before) / 1e6 for size in sizes]
        ratio = statistics.median(directed) / statistics.median(times)
        found.add(
            Figure(f"{kind}: storing {RECORDS:,} records", [stored], "s"),
            Figure(f"{kind}: start to consuming with none", [empty], "s"),
            Figure(f"{kind}: start to consuming with {RECORDS:,}", times, "s", "3 at most"),
            Figure(f"{kind}: resident memory they add to the worker", sizes, "MB", "120 at most"),
            Figure(f"{kind}: the same start with {DIRECTIVES:,} directives", directed, "s"),
            Figure(f"{kind}: the start with directives against that without", [ratio], "x", "1.05 at most"),
        )
    cache = in_new_process(RECORDS)
    found.add(
        Figure("look-up of an id that is not revoked", [cache["absent_ns"] / 1000], "us", "1 at most"),
        Figure("look-up of an id that is", [cache["held_ns"] / 1000], "us", "1 at most"),
    )


def starts(lab: Lab, settings: Settings) -> tuple[list[float], list[float]]:
    """Seconds to consuming and resident bytes, of a few workers after one another."""
    found = []
    for _ in range(max(1, lab.rounds // 2)):
        with lab.processes() as start:
            found.append(begin(start, settings))
    return [took for took, _ in found], [size for _, size in found]


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
