"""Ten thousand revocations in one call, and what a ping takes meanwhile."""

from __future__ import annotations

import sys
import time
import uuid

from benchmarks.figures import Figure, Findings
from benchmarks.lab import Lab, stem_worker
from stem_kombu import ControlClient

IDS = 10_000


def measure(lab: Lab, found: Findings) -> None:
    for broker, store in (("redis", "redis"), ("redis", "postgres"), ("rabbitmq", "redis"), ("rabbitmq", "postgres")):
        settings = lab.settings(lab.url(broker), lab.url(store))
        times, meanwhile, quiet = [], [], []
        with lab.processes() as start, ControlClient(settings) as client:
            begun = [stem_worker(start, settings, name, "-c", "1") for name in ("alpha", "bravo")]
            for process in begun:
                process.wait_for("ready:")
            pings = lab.path("pings")
            pinger = start(
                sys.executable,
                "-m",
                "benchmarks.pinger",
                settings.broker.value,
                str(settings.backend.value),
                str(pings),
            )
            pinger.wait_for("ready:")
            client.ping()
            for _ in range(lab.rounds):
                time.sleep(0.5)
                began = time.monotonic()
                report = client.revoke([str(uuid.uuid4()) for _ in range(IDS)], expires_in=3600)
                ended = time.monotonic()
                assert report.complete and sum(len(r.payload["applied"]) for r in report.replies) == 2 * IDS
                times.append(ended - began)
                time.sleep(0.2)
                for line in pings.read_text().splitlines():
                    at, took = map(float, line.split())
                    if at + took >= began and at <= ended:
                        meanwhile.append(took * 1000)
                    elif at > ended:
                        quiet.append(took * 1000)
        name, goal = f"{broker}, store {store}", "0.3 at most" if store == "postgres" else "2 at most"
        found.add(
            Figure(f"{name}: {IDS:,} revoked, all workers answered", times, "s", goal),
            Figure(f"{name}: pings of another client meanwhile", meanwhile, "ms", "100 at most"),
            Figure(f"{name}: pings when it is quiet", quiet, "ms"),
        )
