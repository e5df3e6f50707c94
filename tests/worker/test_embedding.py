"""A worker inside an existing Kombu application, which has consumers of its own on the same connection."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from kombu import Connection, Consumer, Exchange, Queue

from stem_kombu.app import Stem
from stem_kombu.control.client.client import ControlClient
from stem_kombu.errors import ConfigurationError
from stem_kombu.outcome import TaskState
from stem_kombu.testing.gates import Gate
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.transports.sqlite.registration import register
from stem_kombu.worker.worker import Worker
from tests.waiting import eventually
from tests.worker.conftest import WorkerMaker

ORDERS = Queue("orders", Exchange("orders", type="direct"), routing_key="orders")
WORKERS_OWN = {
    f"stem-{part}" for part in ("consumer", "recorder", "leases", "holds", "heartbeats", "control", "hydration")
}


class Application:
    """Consumes orders on its own connection, in its own thread, as it did before there was a worker."""

    def __init__(self, url: str) -> None:
        register()  # the embedded scheme
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


#: Kombu's own options by which the host says how soon a connection that has fallen silent is given up.
SOON: dict[str, dict[str, Any]] = {
    "amqp": {"heartbeat": 1},
    "redis": {"transport_options": {"socket_timeout": 1.0}},
}


@pytest.mark.parametrize("broker_url", ["redis", "amqp"], indirect=True)
def test_g18_connections_of_a_host_that_die_in_silence_are_given_up_and_made_anew(
    broker_url: str,
    app: Stem,
    make_worker: WorkerMaker,
    control: ControlClient,
    proxy_for: Callable[[str, int], TcpProxy],
) -> None:
    parts = urlsplit(broker_url)
    proxy = proxy_for(str(parts.hostname), int(parts.port or 0))
    relayed = urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{proxy.port}")))
    yours = Connection(relayed, **SOON[parts.scheme])
    worker = make_worker(connection=yours, concurrency=1)
    assert app.send_task("inline.add", [1]).get(timeout=30) == 1
    assert control.inspect(timeout=30).complete  # over the connection that sends what takes a while
    generation = worker.ownership.generation

    proxy.half_open()

    result = app.send_task("inline.add", [2])
    assert result.get(timeout=60) == 2
    assert worker.ownership.generation > generation
    eventually(lambda: [reply.worker for reply in control.ping(timeout=1).replies] == ["alpha"], 60)
    eventually(lambda: [reply.worker for reply in control.inspect(timeout=1).replies] == ["alpha"], 60)
    yours.release()


@pytest.mark.parametrize("option", ["concurrency", "inline_slots", "prefetch_multiplier"])
def test_a_number_of_nothing_is_refused_by_its_name(option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} 0 must be at least 1"):
        Worker(Stem("none", broker="memory://none", revoke_store="memory://none"), **{option: 0})
