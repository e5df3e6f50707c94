"""What revocations cost: to save, to read back, to ask for what is new, and to hold a million of them.

    python benchmarks/revocations.py [URL ...] [--ids 10000] [--records 1000000] [--runs 3]

Without URLs a memory, a file and a SQLite store are measured in a new temporary folder; name redis:// and postgresql://
URLs to measure those as well. Each store gets namespaces of its own, whose records expire after an hour. Prints medians
of the runs. The cache is filled in a new process each time, so that its memory can be told from that of everything else.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

from stem_kombu.clock import SYSTEM
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.registry import open_revoke_store

LOOK_UPS = 200_000
#: Times that they are made, of which the shortest counts: of three none is free of what runs beside them.
LOOK_UP_LOOPS = 15
IDLE_LOOKS = 300
WORDS = {"reason": "bad deploy of the image service", "requested_by": "operator@control.example.org"}


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def measure_store(store: RevokeStore, ids: int) -> dict[str, float]:
    """Milliseconds of each operation."""
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    drafts = [RevocationDraft(str(uuid.uuid4()), terminate=True, expires_in=3600, **WORDS) for _ in range(ids)]
    store.ping()
    store.save(namespace, [RevocationDraft("first", expires_in=3600)])
    found = {
        "one": statistics.median(seconds(lambda: store.save(namespace, drafts[:1])) for _ in range(20)),
        "batch": seconds(lambda: store.save(namespace, drafts)),
        "again": seconds(lambda: store.save(namespace, drafts)),
        "load": seconds(lambda: sum(1 for _ in store.load(namespace))),
    }
    revision = store.revision(namespace)
    list(store.since(namespace, revision))
    found["idle"] = statistics.median(
        seconds(lambda: list(store.since(namespace, revision))) for _ in range(IDLE_LOOKS)
    )
    return {name: spent * 1000 for name, spent in found.items()}


def measure_cache(records: int, answer: Connection) -> None:
    """MB that the process grew by, seconds to fill, nanoseconds per look-up (absent, held), milliseconds to prune none."""
    now = SYSTEM.utcnow()

    def stream() -> Iterator[Revocation]:
        for version in range(1, records + 1):
            expires_at = now + timedelta(days=1) if version % 2 else None
            yield Revocation(
                "bench", str(uuid.uuid4()), version, now, True, WORDS["reason"], WORDS["requested_by"], expires_at
            )

    spent_making = seconds(lambda: sum(1 for _ in stream()))
    cache = RevocationCache("bench")
    gc.collect()
    before = resident()
    spent = seconds(lambda: cache.apply(stream(), now))
    gc.collect()
    grown = resident() - before
    held, absent = cache.newest(1)[0][0].task_id, str(uuid.uuid4())
    answer.send(
        {
            "grown_mb": grown / 1e6,
            "fill_s": spent - spent_making,
            "fill_with_decoding_s": spent,
            "absent_ns": look_ups(cache, absent),
            "held_ns": look_ups(cache, held),
            "newest_ms": seconds(lambda: cache.newest(1000)) * 1000,
            "prune_ms": seconds(lambda: cache.prune(now)) * 1000,
        }
    )


def look_ups(cache: RevocationCache, task_id: str) -> float:
    numbers = range(LOOK_UPS)

    def loop() -> None:
        for _ in numbers:
            task_id in cache  # noqa: B015

    def empty() -> None:
        for _ in numbers:
            task_id  # noqa: B018

    looking, counting = (min(seconds(each) for _ in range(LOOK_UP_LOOPS)) for each in (loop, empty))
    return (looking - counting) / LOOK_UPS * 1e9


def resident() -> int:
    """Bytes of this process that are in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def in_new_process(records: int) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=measure_cache, args=(records, sending))
    process.start()
    found: dict[str, float] = receiving.recv()
    process.join()
    return found


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="*", metavar="URL")
    parser.add_argument("--ids", type=int, default=10_000)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()

    print(f"STORE       SAVE ONE ms  SAVE {given.ids} ms  AGAIN ms  LOAD ms  IDLE SINCE ms")
    with tempfile.TemporaryDirectory() as folder:
        for url in ["memory://bench", f"file://{folder}/revokes.stem", f"sqlite://{folder}/revokes.db", *given.urls]:
            store = open_revoke_store(url)
            found = medians([measure_store(store, given.ids) for _ in range(given.runs)])
            store.close()
            print(
                f"{url.partition(':')[0]:<10}  {found['one']:>11.2f}  {found['batch']:>{len(str(given.ids)) + 8}.0f}"
                f"  {found['again']:>8.0f}  {found['load']:>7.0f}  {found['idle']:>13.3f}"
            )

    if given.records:
        found = medians([in_new_process(given.records) for _ in range(given.runs)])
        print(f"\ncache of {given.records} records with reason and requester")
        print(f"  memory      {found['grown_mb']:.0f} MB")
        print(f"  filled in   {found['fill_s']:.1f} s ({found['fill_with_decoding_s']:.1f} s with making the records)")
        print(f"  look-up     {found['absent_ns']:.0f} ns when absent, {found['held_ns']:.0f} ns when held")
        print(f"  newest 1000 {found['newest_ms']:.1f} ms; pruning when nothing has expired {found['prune_ms']:.3f} ms")


if __name__ == "__main__":
    main()
