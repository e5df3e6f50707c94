"""One lifecycle contract for everything that lives long: start and stop in any order, from any thread, and nothing is left."""

from __future__ import annotations

import gc
import itertools
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from stem_kombu.app import Stem
from stem_kombu.backends.registry import open_backend, open_roster
from stem_kombu.celery.agent import CeleryAgent
from stem_kombu.celery.shared_stop_table import SharedStopTable
from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.connection import ClientConnection
from stem_kombu.control.client.heartbeat_stream import HeartbeatStream
from stem_kombu.control.server.listener import ControlListener
from stem_kombu.control.server.reply_publisher import ReplyPublisher
from stem_kombu.errors import BrokerError, BrokerUnavailable, StemError, StoreUnavailable
from stem_kombu.execution.inline import InlineExecutor
from stem_kombu.measures import Totals
from stem_kombu.settings import Settings
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.task import TaskMessage
from stem_kombu.testing.ports import free_port
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.transports.connections import broker_connection
from stem_kombu.transports.control_link import ControlLink
from stem_kombu.transports.producer import open_producer
from stem_kombu.transports.registry import open_transport
from stem_kombu.worker.worker import Worker
from tests.waiting import eventually
from tests.worker import apps


@dataclass
class Life:
    """Something with a life. ``start`` and ``stop`` are what its owner calls."""

    start: Callable[[], Any]
    stop: Callable[[], Any]
    #: Lets go of what was made with it.
    release: Callable[[], Any] = lambda: None


def _part(name: str, start: Callable[[Any], Any], stop: Callable[[Any], Any]) -> Callable[[Stem], Life]:
    def make(app: Stem) -> Life:
        worker = Worker(app, name=f"life-{name.replace('.', '-')}", concurrency=1)
        part = attrgetter(name)(worker)

        def release() -> None:
            worker.stop()
            worker.agent.listener.stop()  # over which the heartbeats went out

        return Life(lambda: start(part), lambda: stop(part), release)

    return make


def _worker(app: Stem) -> Life:
    worker = Worker(app, name="life", concurrency=1)
    return Life(worker.start, lambda: worker.stop(0.0))


def _inline(app: Stem) -> Life:
    executor = InlineExecutor(2, SimpleNamespace())  # type: ignore[arg-type]  # runs nothing, so nothing is observed
    return Life(executor.start, lambda: executor.stop(0.0))


def _client(app: Stem) -> Life:
    client = ControlClient(app)
    return Life(lambda: client.ping(timeout=0.2), client.close)


def link_of(app: Stem) -> ControlLink:
    return open_transport(broker_connection(app.settings)).control(clock=SYSTEM)


def _outbox(app: Stem) -> Life:
    outbox = ReplyPublisher(link_of(app), "life", clock=SYSTEM)
    return Life(lambda: outbox.reply("stem.test.lifecycle", b"{}"), outbox.close)


def _depths(app: Stem) -> Life:
    depths = open_transport(broker_connection(app.settings)).depths()
    return Life(lambda: depths.of(["default"]), depths.close)


def _producer(app: Stem) -> Life:
    producer = open_producer(app.settings)
    return Life(lambda: producer.send(TaskMessage(uuid.uuid4().hex, "life")), producer.close)


def _agent(app: Stem) -> Life:
    guest = Celery("life", broker=app.settings.broker.value, set_as_current=False)
    # Of Celery's worker no more than an agent looks at: a whole one changes every task of this process.
    host = SimpleNamespace(app=guest, hostname="life@here", concurrency=1, pool=None, consumer=None)
    agent = CeleryAgent(host, app.settings, SharedStopTable(4), Totals())
    return Life(lambda: (agent.start(), agent.view.facts()), agent.stop, guest.close)


def _each_anew(make: Callable[[Any, str], Any]) -> Callable[[Stem], Life]:
    """What is there from the moment it is made, and for one thread: each start makes one, each stop closes one twice."""

    def life(app: Stem) -> Life:
        made: list[Any] = []

        def stop() -> None:
            try:
                one = made.pop()
            except IndexError:
                return
            one.close()
            one.close()

        def release() -> None:
            while made:
                stop()

        return Life(lambda: made.append(make(link_of(app), app.settings.namespace)), stop, release)

    return life


def _store(url: str) -> Callable[[Stem], Life]:
    def make(app: Stem) -> Life:
        store = open_revoke_store(url.format(**_places(app)))
        return Life(lambda: (store.ping(), store.revision("life")), store.close)

    return make


def _backend(url: str) -> Callable[[Stem], Life]:
    def make(app: Stem) -> Life:
        backend = open_backend(url.format(**_places(app)))
        return Life(lambda: (backend.ping(), backend.view("life")), backend.close)

    return make


def _places(app: Stem) -> dict[str, str]:
    state = app.settings.backend.value.removeprefix("sqlite:///")
    return {
        "folder": str(Path(state).parent),
        "broker": app.settings.broker.value,
        "backend": app.settings.backend.value,
    }


def _proxy(app: Stem) -> Life:
    proxy = TcpProxy("127.0.0.1", 1)
    return Life(proxy.start, proxy.stop)


LIVES: dict[str, Callable[[Stem], Life]] = {
    "worker": _worker,
    "listener": _part("agent.listener", lambda part: part.start(), lambda part: part.stop()),
    "hydration": _part("hydration", lambda part: part.start(timeout=30.0), lambda part: part.stop()),
    "heartbeats": _part("agent.heartbeats", lambda part: part.start(), lambda part: part.stop()),
    "recorder": _part("recorder", lambda part: part.start(), lambda part: part.stop(5.0)),
    "leases": _part("leases", lambda part: part.start(), lambda part: part.stop()),
    "holds": _part("holds", lambda part: part.start(), lambda part: part.stop()),
    "consumer": _part("consumer", lambda part: part.start(), lambda part: part.stop()),
    "executors": _part("executor", lambda part: part.start(), lambda part: part.stop(0.0)),
    "inline executor": _inline,
    "client": _client,
    "outbox": _outbox,
    "client connection": _each_anew(
        lambda link, namespace: ClientConnection(link, namespace, timeout=10.0, clock=SYSTEM)
    ),
    "stream": _each_anew(lambda link, namespace: HeartbeatStream(link, namespace, timeout=10.0, clock=SYSTEM)),
    "depths": _depths,
    "producer": _producer,
    "store in sqlite": _store("sqlite:///{folder}/life.db"),
    "store in a file": _store("{folder}/revoked"),
    "store in memory": _store("memory://"),
    "backend in sqlite": _backend("sqlite:///{folder}/life.db"),
    "backend in memory": _backend("memory://"),
    "proxy": _proxy,
}
ON_A_SERVER = {
    name: LIVES[name]
    for name in ("worker", "listener", "consumer", "outbox", "client connection", "stream", "depths", "producer")
}
ON_A_SERVER |= {"face": _part("_celery_monitors", lambda part: part.start(), lambda part: part.stop()), "agent": _agent}
ON: dict[tuple[str, str], dict[str, Callable[[Stem], Life]]] = {
    ("embedded", "sqlite"): LIVES,
    ("redis", "sqlite"): {
        **ON_A_SERVER,
        "leases": LIVES["leases"],
        "store in redis": _store("{broker}"),
        "backend in redis": _backend("{broker}"),
    },
    ("amqp", "sqlite"): ON_A_SERVER,
    ("embedded", "postgres"): {
        **{name: LIVES[name] for name in ("worker", "hydration", "heartbeats", "recorder")},
        "store in postgres": _store("{backend}"),
        "backend in postgres": _backend("{backend}"),
    },
}
everything = pytest.mark.parametrize(
    ("broker_url", "backend_url", "life"),
    [
        pytest.param(*places, make, id=f"{name} {' '.join(places)}")
        for places, lives in ON.items()
        for name, make in lives.items()
    ],
    indirect=True,
)


@pytest.fixture
def backend_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if getattr(request, "param", "sqlite") == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return f"sqlite:///{tmp_path / 'state.db'}"


def _threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def _descriptors() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except FileNotFoundError:
            continue  # the one by which the folder was read
    return found


def _children() -> set[str]:
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found.update((task / "children").read_text().split())
    return found


@pytest.fixture(scope="module", autouse=True)
def others_objects() -> Iterator[None]:
    """What the process held before is not looked through by each collection here: thousands of tests may have run in it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def life(request: pytest.FixtureRequest, app: Stem, fork_server: None) -> Iterator[Life]:
    gc.collect()
    threads, descriptors, children = _threads(), len(_descriptors()), _children()
    made = request.param(app)
    yield made
    made.stop()
    made.release()
    app.close()
    vars(made).clear()  # a template that nobody connected holds a poller of Kombu's as long as it is known
    del made

    def left() -> list[str]:
        gc.collect()
        found = [thread.name for thread in _threads() - threads] + sorted(_children() - children)
        return found + (open_now if len(open_now := _descriptors()) > descriptors else [])

    eventually(lambda: not left(), 20, lambda: f"left behind: {left()}")


_STARTED: list[Worker] = []


@pytest.fixture
def fork_server(app: Stem) -> None:
    """billiard's server and tracker, which live as long as this process, are there before anything is counted."""
    if not _STARTED:
        _STARTED.append(Worker(app, name="first", concurrency=1).start())
        _STARTED[0].stop(0.0)


@everything
def test_whatever_lives_long_starts_and_stops_in_any_order_and_leaves_nothing(life: Life) -> None:
    for order in ["start start stop", "stop start stop stop", "start stop start stop"]:
        for step in order.split():
            try:
                (life.start if step == "start" else life.stop)()
            except StemError:
                assert step == "start"  # what was stopped for good says so


@everything
def test_whatever_lives_long_is_started_and_stopped_by_several_threads_at_once(life: Life) -> None:
    surprises: list[BaseException] = []

    def churn(first: Callable[[], Any], second: Callable[[], Any]) -> None:
        for step in itertools.chain.from_iterable([(first, second)] * 3):
            try:
                step()
            except StemError as error:
                if step is life.stop:
                    surprises.append(error)
            except Exception as error:  # noqa: BLE001 - shown by the test
                surprises.append(error)

    orders = [(life.start, life.stop), (life.stop, life.start)] * 2
    threads = [threading.Thread(target=churn, args=pair, name=f"churn-{place}") for place, pair in enumerate(orders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [thread.name for thread in threads if thread.is_alive()] == []
    assert surprises == []


@pytest.mark.parametrize("broker_url", ["embedded", "redis", "amqp"], indirect=True)
def test_an_agent_that_tells_about_its_worker_again_and_again_opens_nothing(app: Stem) -> None:
    """Celery's connection has a poller from the moment its transport is asked for, and only the collector closes it."""
    life = _agent(app)
    life.start()
    descriptors = len(_descriptors())
    gc.disable()
    try:
        for _ in range(50):
            life.start()
        assert len(_descriptors()) < descriptors + 25  # a heartbeat meanwhile may have opened a few
    finally:
        gc.enable()
        life.stop()
        life.release()


@pytest.mark.parametrize("broker_url", ["embedded", "redis", "amqp"], indirect=True)
@pytest.mark.parametrize("make", [_client, _producer], ids=["client", "producer"])
def test_what_an_application_opens_and_closes_often_is_closed_without_the_collector(
    app: Stem, make: Callable[[Stem], Life]
) -> None:
    def once() -> None:
        life = make(app)
        life.start()
        life.stop()

    once()  # what this process keeps for good
    gc.collect()
    descriptors = len(_descriptors())
    gc.disable()
    try:
        for _ in range(5):
            once()
        eventually(lambda: len(_descriptors()) <= descriptors, 20, lambda: str(_descriptors()))
    finally:
        gc.enable()


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
@pytest.mark.parametrize("make", [_worker, _agent], ids=["worker", "agent"])
def test_a_start_that_fails_leaves_nobody_on_the_roster_for_others_to_wait_for(
    app: Stem, make: Callable[[Stem], Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_listener: ControlListener) -> None:
        raise BrokerUnavailable("the broker has just gone")

    monkeypatch.setattr(ControlListener, "start", fails)
    life = make(app)
    with pytest.raises(BrokerUnavailable):
        life.start()
    roster = open_roster(app.settings.roster.value)
    try:
        assert [beat.worker for beat in roster.view(app.settings.namespace).heartbeats] == []
    finally:
        roster.close()
        life.stop()
        life.release()


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
@pytest.mark.parametrize(("part", "kind"), [("hydration", StoreUnavailable), ("consumer", BrokerError)])
def test_a_start_that_waits_gives_up_when_it_is_stopped(app: Stem, part: str, kind: type[StemError]) -> None:
    nowhere = f"redis://127.0.0.1:{free_port('127.0.0.1')}/0"
    apps.app.configure(Settings.from_env({}, broker=nowhere, backend="memory://", revoke_store=nowhere))
    worker = Worker(app, name="life-waits", concurrency=1)
    waiting = getattr(worker, part)
    raised: list[BaseException] = []

    def start() -> None:
        try:
            waiting.start(timeout=600.0)
        except StemError as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    eventually(lambda: waiting.trouble is not None)
    waiting.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert [type(error) for error in raised] == [kind]
    assert "stop requested" in str(raised[0])
    worker.stop()
