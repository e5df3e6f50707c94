"""What processes under test note of themselves: one line of JSON for each event, in a file for each process.

Only code of the tests calls this (handlers, the wrappers that start workers and commands); production code knows nothing
of it. Times are of CLOCK_MONOTONIC, which all processes of one machine share and no change of the date can move.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.history import Event

FOLDER = "STEM_TEST_HISTORY"
BY = "STEM_TEST_BY"


def now() -> float:
    return time.monotonic()


def note(kind: str, **facts: Any) -> None:
    """Add an event to this process's log, in one write: a kill leaves whole lines. Nothing without a folder."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    event = Event(kind, facts.pop("at", None) or now(), facts.pop("by", None) or os.environ.get(BY, ""), **facts)
    line = json.dumps(event.to_dict()) + "\n"
    descriptor = os.open(Path(folder) / f"{os.getpid()}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read(folder: Path) -> Iterator[Event]:
    """Every event that was noted whole."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                yield Event.from_dict(json.loads(line))
            except ValueError:
                continue  # a full disk cut it off
