"""The time of sending, in what an application with the line sends."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from celery.app.amqp import AMQP

from stem_kombu.celery import install
from stem_kombu.messages.decoding import decode_delivery
from tests.celery.conftest import Shop


def sent_by(app: Celery, **options: Any) -> dict[str, Any]:
    """The headers of a message as it is at the broker."""
    app.send_task("shop.add", (1, 2), queue="stamps", **options)
    with app.connection_for_read() as connection, connection.SimpleQueue("stamps") as queue:
        message = queue.get(timeout=10)
        message.ack()
        decoded = decode_delivery(message).message
        assert decoded.celery is not None  # it stays Celery's
        headers = dict(message.headers)
        if "stem-sent-at" in headers:
            assert decoded.enqueued_at == datetime.fromisoformat(headers["stem-sent-at"].replace("Z", "+00:00"))
        else:
            assert decoded.enqueued_at is None
        assert decoded.headers == ({"own": "kept"} if "own" in headers else {})
        return headers


@pytest.fixture
def application(redis_url: str) -> Any:
    app = Celery("shop", broker=redis_url, backend=redis_url, set_as_current=False)
    yield app
    app.close()


def is_now(stamp: str) -> bool:
    return abs(datetime.fromisoformat(stamp.replace("Z", "+00:00")) - datetime.now(timezone.utc)) < timedelta(minutes=1)


def test_an_application_with_the_line_stamps_and_another_in_the_process_does_not(
    application: Celery, redis_url: str
) -> None:
    other = Celery("other", broker=redis_url, set_as_current=False)
    assert "stem-sent-at" not in sent_by(application)
    install(install(application))  # which has sent already
    headers = sent_by(application, headers={"own": "kept"})
    assert is_now(headers["stem-sent-at"])
    assert "stem-sent-at" not in sent_by(other)
    other.close()


def test_queues_that_were_declared_before_the_line_are_kept(application: Celery) -> None:
    application.amqp.queues.add("declared-by-hand")
    install(application)
    assert "declared-by-hand" in application.amqp.queues
    assert is_now(sent_by(application)["stem-sent-at"])


class OwnAMQP(AMQP):  # type: ignore[misc]  # Celery publishes no types
    """As an application may have it."""

    def own(self) -> str:
        return "kept"


def test_an_application_s_own_amqp_is_kept(redis_url: str) -> None:
    app = install(Celery("shop", broker=redis_url, amqp=OwnAMQP, set_as_current=False))
    assert is_now(sent_by(app)["stem-sent-at"])
    assert app.amqp.own() == "kept"
    app.close()


def test_a_retry_keeps_the_time_of_the_first_sending(shop_on: Callable[[str], Shop]) -> None:
    shop = shop_on("redis")
    install(shop.app)
    shop.start("-c", "1")
    stamp = "2026-01-02T03:04:05.000000Z"
    result = shop.send("shop.stamps", headers={"stem-sent-at": stamp})
    assert result.get(timeout=30) == [stamp, 1]
