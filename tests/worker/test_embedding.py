"""A worker inside an existing Kombu application, which has consumers of its own on the same connection."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Queue

from stem_kombu.app import Stem
from stem_kombu.broker.connections import open_connection
from stem_kombu.control.client import ControlClient
from stem_kombu.errors import ConfigurationError
from stem_kombu.outcome import TaskState
from stem_kombu.testing.gates import Gate
from stem_kombu.worker.worker import Worker
from tests.waiting import eventually

ORDERS = Queue("orders", Exchange("orders", type="direct"), routing_key="orders")
WORKERS_OWN = {
    f"stem-{part}" for part in ("consumer", "recorder", "leases", "holds", "heartbeats", "control", "hydration")
}


class Application:
    """Consumes orders on its own connection, in its own thread, as it did before there was a worker."""

    def __init__(self, url: str) -> None:
        open_connection(url).release()  # knows the embedded scheme from here on
        self.connection = Connection(url)
        self.orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._consume)

    def start(self) -> None:
        self._thread.start()

    def order(self, number: int) -> None:
        with self.connection.clone() as mine:
            mine.Producer().publish({"order": number}, exchange=ORDERS.exchange, routing_key="orders", declare=[ORDERS])

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self.connection.release()

    def _consume(self) -> None:
        def on_message(body: Any, message: Any) -> None:
            self.orders.put(body["order"])
            message.ack()

        with Consumer(self.connection.default_channel, [ORDERS], callbacks=[on_message], accept=["json"]):
            while not self._over.is_set():
                try:
                    self.connection.drain_events(timeout=0.05)
                except TimeoutError:
                    continue


@pytest.fixture
def application(broker_url: str) -> Iterator[Application]:
    application = Application(broker_url)
    application.start()
    yield application
    application.stop()


def test_a_worker_runs_beside_the_consumers_of_an_existing_application_and_leaves_them_alone(
    application: Application, app: Stem, control: ControlClient, gate: Gate
) -> None:
    with Worker(app, connection=application.connection, name="guest", concurrency=1) as worker:
        # Both do their work on the same broker,
        application.order(1)
        assert app.send_task("isolate.add", [1]).get(timeout=30) == 1
        assert application.orders.get(timeout=30) == 1
        # the worker is steered as any other,
        result = app.send_task("inline.gated", [gate.path])
        gate.wait_reached()
        eventually(lambda: worker.inflight.running_count == 1)
        (reply,) = control.revoke([result.id], terminate=True).replies
        assert (reply.worker, reply.payload["terminated"]) == ("guest", [result.id])
        assert result.state is TaskState.CANCELLED
    # and when it has gone, the application goes on.
    application.order(2)
    assert application.orders.get(timeout=30) == 2
    assert control.ping(timeout=0.2).replies == ()
    eventually(lambda: not WORKERS_OWN & {thread.name for thread in threading.enumerate()})


def test_a_worker_started_from_another_thread_needs_no_main_thread_and_installs_no_signal_handlers(
    application: Application, app: Stem
) -> None:
    import signal

    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def host() -> None:
        with Worker(app, connection=application.connection, name="guest", concurrency=1):
            results.put(app.send_task("inline.add", [1]).get(timeout=30))
            results.put([signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)])

    thread = threading.Thread(target=host)
    thread.start()
    assert results.get(timeout=60) == 1
    assert results.get(timeout=60) == handlers
    thread.join()


@pytest.mark.parametrize("option", ["concurrency", "inline_slots", "prefetch_multiplier"])
def test_a_number_of_nothing_is_refused_by_its_name(option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} 0 must be at least 1"):
        Worker(Stem("none", broker="memory://none", revoke_store="memory://none"), **{option: 0})
