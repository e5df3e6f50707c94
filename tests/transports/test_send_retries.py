"""``retry=`` and ``retry_policy=`` of a call: a broker that is away for a moment, and mistakes in a policy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.functional import retry_over_time

from stem_kombu import Stem
from stem_kombu.errors import BrokerRefused, BrokerUnavailable, ConfigurationError
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.send_retries import ONE_TRY, SendRetries, retries_of
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.transports import names
from tests.transports.receiving import Inbox, connected

#: Ends when the broker is back, however late that is.
PATIENT: Any = {"max_retries": None, "interval_start": 0.01, "interval_step": 0.01, "interval_max": 0.05}


@contextmanager
def told(act: Callable[[int], object]) -> Iterator[list[int]]:
    """Within the block, ``act(n)`` is called when it is logged that try number ``n`` failed; the numbers so far."""
    seen: list[int] = []

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(record.args, tuple) and "waits for the broker" in record.msg:
                seen.append(int(str(record.args[1])))
                act(seen[-1])

    handler, logger = Told(), logging.getLogger("stem_kombu.transports.producer")
    logger.addHandler(handler)
    try:
        yield seen
    finally:
        logger.removeHandler(handler)


@pytest.fixture
def proxy(server_url: str, proxy_for: Callable[[str, int], TcpProxy]) -> TcpProxy:
    parts = urlsplit(server_url)
    return proxy_for(parts.hostname or "", parts.port or 0)


@pytest.fixture
def app(server_url: str, proxy: TcpProxy, queue_name: str) -> Iterator[Stem]:
    parts = urlsplit(server_url)
    credentials = parts.netloc.rpartition("@")[0]
    url = urlunsplit(parts._replace(netloc=f"{credentials + '@' if credentials else ''}{proxy.host}:{proxy.port}"))
    app = Stem("retries", broker=url, backend=f"memory://{queue_name}", default_queue=queue_name)
    yield app
    app.close()


def arrived(url: str, queue: str, count: int) -> set[str]:
    connection = connected(url)
    found = set()
    for message in Inbox(connection, names.task_queue(queue)).until(count, 30.0):
        found.add(decode_delivery(message).message.task_id)
        message.ack()
    connection.release()
    return found


@pytest.mark.parametrize("known", [True, False], ids=["was reached before", "was never reached"])
def test_g18_a_task_is_sent_once_the_broker_is_back(
    app: Stem, proxy: TcpProxy, server_url: str, queue_name: str, known: bool
) -> None:
    if known:
        app.send_task("noop", task_id="before")
    proxy.stop()
    with told(lambda number: proxy.start() if number == 4 else None) as tries:
        app.send_task("noop", task_id="one", retry_policy=PATIENT)
    assert tries[:3] == [1, 2, 4]
    sent = {"one", "before"} if known else {"one"}
    assert arrived(server_url, queue_name, len(sent)) == sent
    assert app.result("one").state == "queued"


def test_g18_many_tasks_are_sent_once_the_broker_is_back(
    app: Stem, proxy: TcpProxy, server_url: str, queue_name: str
) -> None:
    app.send_task("noop", task_id="0")
    ids = [str(number) for number in range(1, 61)]
    proxy.stop()
    with told(lambda number: proxy.start() if number == 2 else None):
        app.send_many("noop", [()] * 60, task_ids=ids, retry=True, retry_policy=PATIENT)
    assert arrived(server_url, queue_name, 61) == {"0", *ids}


def test_a_coroutine_that_retries_leaves_the_loop_to_others(
    app: Stem, proxy: TcpProxy, server_url: str, queue_name: str
) -> None:
    proxy.stop()

    async def main() -> None:
        loop, failed = asyncio.get_running_loop(), asyncio.Event()
        with told(lambda _: loop.call_soon_threadsafe(failed.set)):
            sending = asyncio.create_task(app.asend_task("noop", task_id="one", retry_policy=PATIENT))
            await asyncio.wait_for(failed.wait(), 60)
            assert not sending.done()
            proxy.start()  # by the loop, which no try has held up
            assert (await asyncio.wait_for(sending, 60)).id == "one"

    asyncio.run(main())
    assert arrived(server_url, queue_name, 1) == {"one"}


def test_a_policy_that_has_run_out_is_an_error_that_names_the_task(app: Stem, proxy: TcpProxy) -> None:
    app.send_task("noop", task_id="before")
    proxy.stop()
    policy: Any = {"max_retries": 4, "interval_max": 0.01}
    with told(lambda _: None) as tries, pytest.raises(BrokerUnavailable) as raised:
        app.send_task("noop", task_id="one", retry=True, retry_policy=policy)
    assert tries == [1, 2, 4]
    assert raised.value.unconfirmed == ("one",)
    assert app.result("one").state is None


def test_without_retry_a_lost_connection_is_an_error_at_once(app: Stem, proxy: TcpProxy) -> None:
    app.send_task("noop", task_id="before")
    proxy.cut()
    accepted = proxy.accepted
    with pytest.raises(BrokerUnavailable):
        app.send_task("noop", task_id="one", retry=False)
    assert proxy.accepted == accepted
    app.send_task("noop", task_id="two", retry=False)  # over a connection of its own


def test_what_a_broker_refuses_is_not_tried_again(amqp_url: str) -> None:
    parts = urlsplit(amqp_url)
    wrong = urlunsplit(parts._replace(netloc=f"guest:wrong@{parts.netloc.rpartition('@')[2]}"))
    app = Stem("retries", broker=wrong, backend="memory://", revoke_store="memory://")
    with told(lambda _: None) as tries, pytest.raises(BrokerRefused):
        app.send_task("noop", retry=True, retry_policy=PATIENT)
    assert tries == []
    app.close()


seconds = st.floats(0, 5, allow_nan=False)


@given(seconds, seconds, seconds, st.none() | st.integers(0, 5))
def test_the_waits_are_those_of_kombu_up_to_the_longest(
    start: float, step: float, longest: float, most: int | None
) -> None:
    ours = SendRetries(most, start, step, longest)
    theirs: list[float] = []
    policy = {"interval_start": start, "interval_step": step, "interval_max": longest, "max_retries": most}

    def fail() -> None:
        if len(theirs) == 12:
            return
        raise ConnectionError

    def note(_: object, intervals: Iterator[float], tried: int) -> float:
        theirs.append(next(intervals))
        return 0

    try:
        retry_over_time(fail, ConnectionError, errback=note, **policy)
    except ConnectionError:
        assert ours.wait_after(len(theirs) + 1) is None
    for number, kombus in enumerate(theirs, 1):
        wait = ours.wait_after(number)
        # (Kombu before 5.5 takes the step once before it looks at the longest.)
        assert wait is not None and min(kombus, longest) - 1e-9 <= wait <= longest
        if start + (number - 1) * step < longest:  # a step that goes beyond it: Kombu waits as before, for ever
            assert wait == pytest.approx(kombus, abs=1e-9)


def test_a_policy_and_its_default_are_celerys() -> None:
    from celery.app.defaults import NAMESPACES

    assert retries_of("x", {"retry": True}) == SendRetries(**NAMESPACES["task"]["publish_retry_policy"].default)
    assert retries_of("x", {}) is retries_of("x", {"retry": None, "retry_policy": None}) is None
    assert retries_of("x", {"retry_policy": {"max_retries": 9}}) == SendRetries(9)
    assert retries_of("x", {"retry": False, "retry_policy": {"max_retries": 9}}) is ONE_TRY


@pytest.mark.parametrize(
    ("options", "said", "hint"),
    [
        ({"retry": "yes"}, "retry of task 'noop': 'yes' (str) is neither True nor False", "give how often"),
        ({"retry_policy": 3}, "retry_policy of task 'noop': 3 (int) is no mapping", "its keys are max_retries,"),
        ({"retry_policy": {"max_retry": 3}}, "retry_policy of task 'noop' knows no key 'max_retry'", "'max_retries'?"),
        ({"retry_policy": {"intervall_max": 3}}, "retry_policy of task 'noop' knows no key 'intervall_max'", "val_max'?"),
        ({"retry_policy": {"retry_errors": ()}}, "retry_policy of task 'noop' knows no key 'retry_errors'", "leave it"),
        ({"retry_policy": {7: 3}}, "retry_policy of task 'noop' knows no key 7", "known are max_retries"),
        ({"retry_policy": {"max_retries": 1.5}}, "retry_policy['max_retries'] of task 'noop': 1.5 (float) is no", None),
        ({"retry_policy": {"max_retries": -1}}, "retry_policy['max_retries'] of task 'noop': -1 must not be", None),
        ({"retry_policy": {"interval_step": "1"}}, "retry_policy['interval_step'] of task 'noop': '1' (str) is", "give"),
        ({"retry_policy": {"interval_max": -1}}, "retry_policy['interval_max'] of task 'noop': -1 must not be", None),
        ({"retry": False, "retry_policy": {"max": 1}}, "retry_policy of task 'noop' knows no key 'max'", "known are"),
        ({"retry_polcy": {}}, "send_task of task 'noop' knows no option 'retry_polcy'", "did you mean retry_policy=?"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_before_anything_is_sent(options: Any, said: str, hint: str | None) -> None:
    app = Stem("retries", broker="memory://retry-mistakes", backend="memory://")
    with app.eager(), pytest.raises(ConfigurationError) as raised:
        app.send_task("noop", **options)
    assert str(raised.value).startswith(said)
    assert (raised.value.hint or "").find(hint or "") >= 0 and (raised.value.hint is None) == (hint is None)
    if "retry_polcy" not in options:
        with app.eager(), pytest.raises(ConfigurationError):
            app.send_many("noop", [()], **options)
    app.close()


def test_tasks_that_run_at_once_take_the_options_too() -> None:
    app = Stem("retries", broker="memory://retry-eager", backend="memory://")

    @app.task("retries.double")
    def double(n: int) -> int:
        return 2 * n

    with app.eager():
        assert double.apply_async((4,), retry=True, retry_policy={"max_retries": 1}).get(timeout=0) == 8
