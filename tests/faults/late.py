"""Messages on Redis while what a worker sent to the server arrives late: held back for longer than a lease, after the worker
was killed, and in the middle of a sweep by another. Waits of a worker of 0.1.0 arrive late as well."""

from __future__ import annotations

import random
import signal
import time
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis

from stem_kombu.testing.proxy import TcpProxy
from tests.waiting import eventually

#: Seconds for which a link is held back, mostly, and in one trial of five: longer than the lease of this suite's workers.
_HOLD, _LONG_HOLD = (0.0, 2.0), (10.5, 13.0)
_OPTIONS = {"app": "tests.faults.counting", "inline_slots": 2}


def late(lab: Any, trials: int, patience: float) -> tuple[int, int]:
    """How many of the messages that were sent in so many trials never ran, and how many were sent."""
    rng = random.Random(trials)
    url = lab.urls["broker"]
    parts = urlsplit(url)
    sent: list[str] = []
    lost = 0
    with redis.Redis.from_url(url) as server, TcpProxy(parts.hostname or "", parts.port or 0) as proxy:
        through = urlunsplit(parts._replace(netloc=f"{proxy.host}:{proxy.port}"))
        queue = lab.app.settings.default_queue
        lab.start_worker("bravo", **_OPTIONS)
        alpha = lab.start_worker("alpha", **_OPTIONS, broker=through)
        for trial in range(trials):
            ids = [f"late-{trial}-{number}" for number in range(6)]
            lab.send(*ids[:2])
            proxy.stall(to_client=rng.random() < 0.5)
            lab.send(*ids[2:4])
            # A wait of a worker of 0.1.0 that the server carries out now, though its landing was forgotten long ago.
            server.lmove(queue, f"stem-unacked-landings:{trial:016x}:0:0", "RIGHT", "LEFT")
            lab.send(*ids[4:])
            time.sleep(rng.uniform(*(_LONG_HOLD if rng.random() < 0.2 else _HOLD)))
            killed = rng.random() < 0.3
            if killed:
                lab.end(alpha, signal.SIGKILL)
            proxy.resume()
            if killed or not lab.is_ready(alpha):
                alpha = lab.start_worker("alpha", **_OPTIONS, broker=through)
            sent += ids
            try:
                eventually(lambda ids=ids: set(ids) <= set(lab.ran()), patience)  # type: ignore[misc]
            except AssertionError:
                lost += len(set(ids) - set(lab.ran()))
    return lost, len(sent)
