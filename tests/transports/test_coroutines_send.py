"""Coroutines that send while the broker is away, silent, or under an alarm; with and without RabbitMQ's confirms (G18, I12).

Whatever happens, a task that a call returned for is in its queue once, or a log line says that it may be lost; a task that
was not sent is the error of its own call; and the loop goes on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from stem_kombu import AsyncResult, Stem
from stem_kombu.errors import BrokerBlocked, BrokerUnavailable
from stem_kombu.testing.proxy import TcpProxy
from tests.servers.rabbitmq import RabbitServer
from tests.transports.test_producer import ids
from tests.transports.test_send_retries import PATIENT, told
from tests.waiting import eventually
from tests.worker.test_set_aside import alarm

Calls = list[Callable[[], Awaitable[AsyncResult[Any]]]]
#: More than there are threads for them.
MANY = 40
LOST = "without confirms, may be lost"


@pytest.fixture(params=["redis", "amqp", "amqp without confirms"])
def sender(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(sender: str, request: pytest.FixtureRequest) -> str:
    """The broker itself, past the proxy."""
    return str(request.getfixturevalue("redis_url" if sender == "redis" else "amqp_url"))


@pytest.fixture
def proxy(server: str, proxy_for: Callable[[str, int], TcpProxy]) -> TcpProxy:
    parts = urlsplit(server)
    return proxy_for(parts.hostname or "", parts.port or 0)


@pytest.fixture
def app(sender: str, server: str, proxy: TcpProxy, queue_name: str) -> Iterator[Stem]:
    parts = urlsplit(server)
    credentials = parts.netloc.rpartition("@")[0]
    url = urlunsplit(parts._replace(netloc=f"{credentials + '@' if credentials else ''}{proxy.host}:{proxy.port}"))
    options = {"confirm_publish": False} if sender.endswith("confirms") else None
    app = Stem(
        "coroutines", broker=url, broker_options=options, backend=f"memory://{queue_name}", default_queue=queue_name
    )
    app.task("coroutines.noop", context=False)(noop)
    yield app
    app.close()


def noop(number: int) -> None: ...


def calls(app: Stem, count: int, **options: Any) -> Calls:
    """``aapply_async`` and ``asend_task`` in turns, each with an id of its own."""
    handle: Any = app.task("coroutines.noop", context=False)(noop)

    def one(number: int) -> Callable[[], Awaitable[AsyncResult[Any]]]:
        task_id = f"t{number}"
        if number % 2:
            return lambda: handle.aapply_async((number,), task_id=task_id, **options)
        return lambda: app.asend_task("coroutines.noop", (number,), task_id=task_id, **options)

    return [one(number) for number in range(count)]


def began(every: Calls) -> list[asyncio.Future[Any]]:
    return [asyncio.ensure_future(one()) for one in every]


async def goes_on(passes: int = 200) -> None:
    """So many passes of the loop, which would never come where a sender holds it."""
    for _ in range(passes):
        await asyncio.sleep(0)


async def ended(sending: list[asyncio.Future[Any]]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*sending, return_exceptions=True), 120)


def test_g18_coroutines_that_retry_send_each_task_once_when_the_broker_is_back(
    app: Stem, proxy: TcpProxy, server: str, queue_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.send_task("coroutines.noop", (0,), task_id="before")
    app.close()  # what was written is there: what follows begins without a connection
    proxy.stop()

    async def main() -> list[Any]:
        loop, failed = asyncio.get_running_loop(), asyncio.Event()
        with told(lambda _: loop.call_soon_threadsafe(failed.set)):
            sending = began(calls(app, MANY, retry=True, retry_policy=PATIENT))
            await asyncio.wait_for(failed.wait(), 60)
            await goes_on()
            assert not any(one.done() for one in sending)
            proxy.start()
            return await ended(sending)

    sent = asyncio.run(main())
    assert {one.id for one in sent} == {f"t{number}" for number in range(MANY)}
    app.close()
    assert ids(server, queue_name, MANY + 1) == {"before": 1} | {f"t{number}": 1 for number in range(MANY)}
    assert LOST not in caplog.text


def test_g18_a_connection_that_breaks_amid_coroutines_loses_nothing_without_a_word(
    app: Stem, proxy: TcpProxy, server: str, queue_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> list[Any]:
        first = await ended(began(calls(app, 4, retry=True, retry_policy=PATIENT)))
        proxy.cut()
        rest = await ended(began(calls(app, MANY, retry=True, retry_policy=PATIENT)[4:]))
        return first + rest

    sent = asyncio.run(main())
    assert {one.id for one in sent} == {f"t{number}" for number in range(MANY)}
    app.close()
    lost = LOST in caplog.text
    there = set(ids(server, queue_name, 4 if lost else MANY))
    assert lost or there == {f"t{number}" for number in range(MANY)}


def test_g18_calls_to_a_silent_broker_are_in_time_errors_that_name_their_task(
    app: Stem, proxy: TcpProxy, sender: str, server: str, queue_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One try each (``retry=False``). Without confirms a call returns once it is written, and the loss is logged."""
    app.send_task("coroutines.noop", (0,), task_id="before")
    app.producer._timeout = 1.0  # type: ignore[union-attr]
    proxy.stall()

    async def main() -> list[Any]:
        sending = began(calls(app, 6, retry=False))
        await goes_on()
        return await ended(sending)

    outcomes = asyncio.run(main())
    returned = {one.id for one in outcomes if isinstance(one, AsyncResult)}
    failed = {one.unconfirmed for one in outcomes if isinstance(one, BrokerUnavailable)}
    assert returned | {one for many in failed for one in many} == {f"t{number}" for number in range(6)}
    assert sender.endswith("confirms") or returned == set()
    proxy.cut()
    proxy.resume()
    app.producer._timeout = 20.0  # type: ignore[union-attr]
    app.send_task("coroutines.noop", (0,), task_id="after", retry=True, retry_policy=PATIENT)
    app.close()
    # Without confirms even what was sent just before may not have passed the proxy yet, and is among what was logged as lost.
    may_be_lost = returned | ({"before"} if sender.endswith("without confirms") else set())
    certain = ({"before", "after"} | returned) - (may_be_lost if LOST in caplog.text else set())
    assert certain <= set(ids(server, queue_name, len(certain)))


def test_g18_a_broker_that_is_silent_for_a_moment_gets_each_task_once(
    app: Stem, proxy: TcpProxy, server: str, queue_name: str
) -> None:
    app.send_task("coroutines.noop", (0,), task_id="before")
    app.producer._timeout = 60.0  # type: ignore[union-attr]

    async def main() -> list[Any]:
        proxy.stall()
        sending = began(calls(app, MANY))
        await goes_on()
        proxy.resume()
        return await ended(sending)

    assert len({one.id for one in asyncio.run(main())}) == MANY
    app.close()
    assert ids(server, queue_name, MANY + 1) == {"before": 1} | {f"t{number}": 1 for number in range(MANY)}


def test_a_policy_that_has_run_out_is_the_error_of_each_call(app: Stem, proxy: TcpProxy) -> None:
    app.send_task("coroutines.noop", (0,), task_id="before")
    app.close()
    proxy.stop()

    async def main() -> list[Any]:
        return await ended(began(calls(app, 6, retry_policy={"max_retries": 2, "interval_max": 0.01})))

    outcomes = asyncio.run(main())
    assert {type(one) for one in outcomes} == {BrokerUnavailable}
    assert {one.unconfirmed for one in outcomes} == {(f"t{number}",) for number in range(6)}
    assert {app.result(f"t{number}").state for number in range(6)} == {None}


def test_no_try_to_send_is_made_in_the_loop_s_thread(
    app: Stem, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.stop()
    threads: set[int] = set()
    pool = type(app.producer._pool)  # type: ignore[union-attr]
    send = pool.send

    def noted(*args: Any) -> None:
        threads.add(threading.get_ident())
        send(*args)

    monkeypatch.setattr(pool, "send", noted)
    outcomes = asyncio.run(main_of(calls(app, 4, retry_policy={"max_retries": 2, "interval_max": 0.01})))
    assert {type(one) for one in outcomes} == {BrokerUnavailable}
    assert threads and threading.get_ident() not in threads


async def main_of(every: Calls) -> list[Any]:
    return await ended(began(every))


@pytest.mark.parametrize("sender", ["amqp", "amqp without confirms"], indirect=True)
def test_under_an_alarm_each_call_is_an_error_and_is_not_tried_again(
    app: Stem,
    sender: str,
    server: str,
    queue_name: str,
    rabbitmq_server: RabbitServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A task of before the alarm was known may be written, and arrives when it is over: once."""
    monkeypatch.setattr("stem_kombu.timeouts.ALARM_PATIENCE", 0.1)
    app.send_task("coroutines.noop", (0,), task_id="before")
    with alarm(rabbitmq_server), told(lambda _: None) as tries:
        if sender.endswith("confirms"):
            (line,) = app.producer._pool.idle  # type: ignore[union-attr]
            app.send_task("coroutines.noop", (0,), task_id="written")
            eventually(lambda: line._channel.has_news(1.0))  # type: ignore[attr-defined]

        async def main() -> list[Any]:
            sending = began(calls(app, 6, retry=True, retry_policy=PATIENT))
            await goes_on()
            return await ended(sending)

        outcomes = asyncio.run(main())
    assert tries == []
    blocked = {one.unconfirmed for one in outcomes if isinstance(one, BrokerBlocked)}
    sent = {one.id for one in outcomes if isinstance(one, AsyncResult)}
    assert len(blocked) + len(sent) == 6
    assert blocked
    app.send_task("coroutines.noop", (0,), task_id="after")
    app.close()
    there = ids(server, queue_name, len({"before", "after"} | sent))
    assert {"before", "after"} | sent <= set(there)
    assert set(there.values()) == {1}
