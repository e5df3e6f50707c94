"""A process whose date is wrong: ``python -m tests.faults.skew MODULE ARGUMENTS``, with STEM_TEST_SKEW in the environment.

Runs the module as a program, so many seconds ahead of its time. It moves ``time.time`` (Kombu and the drivers ask that)
and ``stem_kombu.clock``, and leaves the monotonic clock alone, as a wrong date does. Nothing of it is in the product.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from datetime import datetime, timedelta, timezone

VARIABLE = "STEM_TEST_SKEW"
SECONDS = float(os.environ.get(VARIABLE) or 0.0)


def apply() -> None:
    """Move this process's date. Must come before anything says ``from time import time``."""
    if not SECONDS or hasattr(time, "_stem_test_skewed"):
        return
    time._stem_test_skewed = True  # type: ignore[attr-defined]
    true_time, true_time_ns = time.time, time.time_ns
    time.time = lambda: true_time() + SECONDS
    time.time_ns = lambda: true_time_ns() + int(SECONDS * 1e9)

    from stem_kombu import clock

    def utcnow(_: object) -> datetime:
        return datetime.now(timezone.utc) + timedelta(seconds=SECONDS)

    clock.SystemClock.utcnow = utcnow  # type: ignore[method-assign]


apply()

if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
