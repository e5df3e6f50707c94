"""What the line costs a Celery worker that is idle, beside the same worker without it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from textwrap import dedent

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


#: A task's way through a worker with a pool that runs nothing, and through a child; prints the steps of each.
TASK = """
    import json, sys, time, types
    from celery import Celery
    from celery.app import trace
    from celery.worker import state, strategy
    from tests.test_costs import steps

    app = Celery("cost", broker="memory://")
    app.conf.update(worker_disable_rate_limits=True, task_ignore_result=True)

    @app.task(name="cost.nothing")
    def task():
        pass

    app.finalize()
    if sys.argv[1:] == ["line"]:
        from stem_kombu.celery import registry, revoked, task_api
        from stem_kombu.celery.held_requests import HeldRequests
        from stem_kombu.celery.queue_pauses import QueuePauses
        from stem_kombu.celery.requests import RequestParts
        from stem_kombu.celery.rules import GuestRules
        from stem_kombu.celery.shared_stop_table import SharedStopTable
        from stem_kombu.measures import Totals
        from stem_kombu.revocation_cache import RevocationCache

        worker, table, cache = types.SimpleNamespace(app=app, consumer=None), SharedStopTable(16), RevocationCache("cost")
        held = HeldRequests(worker)
        pauses = QueuePauses(worker, types.SimpleNamespace(paused={}), held)
        task_api.install(table)
        registry.guard_all(app, RequestParts(Totals(), table, pauses, GuestRules(held, cache.now)))
        revoked.install(cache)

    class Pool:
        def apply_async(self, target, accept_callback, callback, **_):
            accept_callback(1, time.monotonic())
            callback((0, None, 0.001))

    consumer = types.SimpleNamespace(
        hostname="here", connection_errors=(), event_dispatcher=None, timer=types.SimpleNamespace(call_at=None),
        apply_eta_task=None, disable_rate_limits=True, task_buckets={"cost.nothing": None}, _limit_task=None,
        _limit_post_eta=None, controller=types.SimpleNamespace(state=state), pool=Pool(),
    )
    consumer.on_task_request = lambda request: request.execute_using_pool(consumer.pool)
    handle = strategy.default(task, app, consumer)
    task.__trace__ = trace.build_tracer(task.name, task, app.loader, "here", app=app)
    trace.setup_worker_optimizations(app, "here")
    body = json.dumps([[], {}, {}])
    numbers = iter(range(9))

    def headers():
        number = str(next(numbers))
        return {"task": "cost.nothing", "id": number, "root_id": number, "retries": 0, "timelimit": [None, None]}

    def received():
        message = types.SimpleNamespace(
            headers=headers(), properties={}, payload=[[], {}, {}], body=body, content_type="application/json",
            content_encoding="utf-8", delivery_info={"exchange": "", "routing_key": "celery"}, delivery_tag=1,
        )
        handle(message, None, lambda *_: None, lambda *_: None, [])

    def run():
        request = {**headers(), "delivery_info": {}, "is_eager": False}
        trace.fast_trace_task("cost.nothing", request["id"], request, body, "application/json", "utf-8")

    print(steps(received), steps(run))
"""


@pytest.mark.skipif(platform.python_implementation() != "CPython", reason="counts CPython's instructions")
def test_the_line_adds_few_steps_to_a_task_in_the_worker_and_in_its_child() -> None:
    def counted(*arguments: str) -> tuple[int, int]:
        done = subprocess.run(
            [sys.executable, "-c", dedent(TASK), *arguments],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        worker, child = map(int, done.stdout.split())
        return worker, child

    (worker, child), (worker_with_line, child_with_line) = counted(), counted("line")
    assert worker_with_line - worker < 720
    assert child_with_line - child < 160
