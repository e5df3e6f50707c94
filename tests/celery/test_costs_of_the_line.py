"""What the line costs a Celery worker that is idle, beside the same worker without it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.celery.conftest import ROOT

#: What consumes, publishes and settles tasks, which Celery does by itself; the store's control link; what proves anything.
NOT_NEEDED = {
    "stem_kombu.backends.failed",
    "stem_kombu.backends.verified_roster",
    "stem_kombu.execution.base",
    "stem_kombu.signing.directive_proofs",
    "stem_kombu.signing.proofs",
    "stem_kombu.signing.rule_proofs",
    "stem_kombu.transports.generic.consumer",
    "stem_kombu.transports.publisher",
    "stem_kombu.transports.queues",
    "stem_kombu.transports.store.board",
    "stem_kombu.transports.store.control",
    "stem_kombu.worker.delivery_events",
    "stem_kombu.worker.settlement",
}


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["redis", pytest.param("amqp", marks=pytest.mark.slow)])
def test_the_line_costs_few_descriptors_and_threads(kind: str, request: pytest.FixtureRequest) -> None:
    backend = request.getfixturevalue("redis_url")
    broker = backend if kind == "redis" else request.getfixturevalue("amqp_url")
    done = subprocess.run(
        [sys.executable, "scripts/guest_cost.py", broker, backend, "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    more = json.loads(done.stdout.splitlines()[-1])
    assert more["descriptors"] <= 6, done.stdout
    assert more["threads"] <= 3, done.stdout
    assert more["mb"] < 10, "five are meant; how much a process shares differs from run to run"
    assert more["mb_in_all"] <= 5, "the children share what they inherit"
    assert not NOT_NEEDED & set(more["modules"]), done.stdout


def test_a_worker_has_only_the_modules_that_it_needs() -> None:
    parts = "stem_kombu.celery.step, stem_kombu.transports.amqp.port, stem_kombu.transports.amqp.control"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {parts}; print(*sys.modules)"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert not NOT_NEEDED & set(done.stdout.split())
