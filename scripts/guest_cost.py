"""What the line costs a Celery worker: its descriptors, threads and memory with and without it.

    python scripts/guest_cost.py redis://localhost:6379/0 [RESULT_BACKEND] [--pool prefork] [--details]

Starts one plain worker and one with the line, lets each run tasks and answer commands, and counts while both are idle. With
``--details`` each descriptor and thread is named. It needs Linux, and a broker that is running.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery
from celery.worker.control import inspect_command

ROOT = Path(__file__).parent.parent


def application() -> Celery:
    """The worker's, as the environment says."""
    made = Celery("cost", broker=os.environ["COST_BROKER"], backend=os.environ["COST_BACKEND"])
    made.conf.broker_connection_retry_on_startup = True
    if os.environ.get("COST_LINE") == "1":
        from stem_kombu.celery import install

        install(made)
    made.task(name="cost.nothing", shared=False)(nothing)
    return made


def nothing() -> None:
    """A task."""


@inspect_command(name="cost")  # type: ignore[untyped-decorator]
def told(state: Any, **_: Any) -> dict[str, Any]:
    """What this process has open."""
    return {
        "descriptors": descriptors(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "kb": memory(),
        "kb_in_all": memory_in_all(),
        "modules": sorted(name for name in sys.modules if name.startswith("stem_kombu")),
    }


def descriptors() -> list[str]:
    """What each descriptor of this process leads to."""
    peers = _peers()
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            leads_to = str(descriptor.readlink())
        except FileNotFoundError:
            continue  # that of the listing itself
        found.append(peers.get(leads_to, leads_to.partition(":[")[0] if "pipe" in leads_to else leads_to))
    return sorted(found)


def _peers() -> dict[str, str]:
    """Sockets by inode, each with the port that it leads to."""
    found = {}
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        found[f"socket:[{fields[9]}]"] = f"tcp to port {int(fields[2].partition(':')[2], 16)}"
    return found


def memory() -> int:
    """Kilobytes that are this process's alone."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def memory_in_all() -> int:
    """Kilobytes of this process and its children, with what they share counted once."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    rows = [row for one in ("self", *children) for row in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()]
    return sum(int(row.split()[1]) for row in rows if row.startswith("Pss_Anon:"))


@contextmanager
def worker(broker: str, backend: str, pool: str, *, line: bool) -> Iterator[Celery]:
    """A Celery client whose worker has started."""
    env = {
        **os.environ,
        "COST_BROKER": broker,
        "COST_BACKEND": backend,
        "COST_LINE": str(int(line)),
        "PYTHONPATH": str(ROOT),
    }
    os.environ |= {"COST_BROKER": broker, "COST_BACKEND": backend, "COST_LINE": "0"}
    command = [sys.executable, "-m", "celery", "-A", "scripts.guest_cost:app", "worker", "-P", pool, "-c", "2"]
    process = subprocess.Popen(
        [*command, "-n", "cost@here", "--without-mingle", "-l", "error"], env=env, stdin=subprocess.DEVNULL
    )
    try:
        yield application()
    finally:
        process.terminate()
        process.wait(60)


def measured(broker: str, backend: str, pool: str, *, line: bool) -> dict[str, Any]:
    with worker(broker, backend, pool, line=line) as app:
        for _ in range(20):
            app.send_task("cost.nothing").get(timeout=60)
        for _ in range(3):
            app.control.ping(timeout=0.5)
        answers = app.control.broadcast("cost", reply=True, timeout=3.0)
        return dict(answers[0]["cost@here"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("broker")
    parser.add_argument("backend", nargs="?")
    parser.add_argument("--pool", default="prefork")
    parser.add_argument("--details", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with_it, without = (
        measured(given.broker, given.backend or given.broker, given.pool, line=line) for line in (True, False)
    )
    if given.details:
        for name, found in (("with the line", with_it), ("without", without)):
            print(f"{name}:", *found["descriptors"], *found["threads"], sep="\n  ")
    more = {
        "descriptors": len(with_it["descriptors"]) - len(without["descriptors"]),
        "threads": len(with_it["threads"]) - len(without["threads"]),
        "mb": round((with_it["kb"] - without["kb"]) / 1024, 1),
        "mb_in_all": round((with_it["kb_in_all"] - without["kb_in_all"]) / 1024, 1),
    }
    print(json.dumps(more | {"modules": with_it["modules"]}) if given.json else f"more with the line: {more}")


if __name__ == "__main__":
    main()
elif "COST_BROKER" in os.environ:
    app = application()
