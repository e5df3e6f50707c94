"""A driver that has changed: what the fast paths need is looked for, and without it Kombu's public names do the work (G18)."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.errors import ConfigurationError
from stem_kombu.task import TaskMessage
from stem_kombu.testing.transport_contract import Reader, task_of
from stem_kombu.transports import internals
from stem_kombu.transports.amqp.consumer import AmqpConsumer
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.generic.consumer import GenericConsumer
from stem_kombu.transports.producer import TaskProducer
from stem_kombu.transports.redis.consumer import RedisConsumer
from stem_kombu.transports.registry import open_transport


def every(*tables: dict[str, tuple[str, ...]]) -> list[str]:
    return sorted({name for table in tables for names in table.values() for name in names})


@pytest.fixture(autouse=True)
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "_warned", set())


def lose(monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    """As if the driver's next release had removed it."""
    has = internals.has
    monkeypatch.setattr(internals, "has", lambda owner, name: name != gone and has(owner, name))


def goes_through(url: str, queue: str, **how: bool) -> type[Any]:
    """The kind of consumer over which a task came that was sent in the same way."""
    transport = open_transport(open_connection(url), **how)
    producer = TaskProducer(lambda: open_connection(url), generic=how.get("generic", False))
    reader = Reader(transport.consumer([queue], clock=SYSTEM))
    try:
        producer.send(TaskMessage("t1", "shop.render", queue=queue))
        (message,) = reader.until(1)
        assert task_of(message) == "t1"
        reader.acknowledge(message)
        return type(reader.consumer)
    finally:
        reader.close()
        producer.close()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("gone", every(internals.AMQP_READS, internals.AMQP_SENDS))
def test_rabbitmq_is_used_by_kombus_public_names_with_one_warning(
    amqp_url: str, queue_name: str, gone: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lose(monkeypatch, gone)
    reads = gone in every(internals.AMQP_READS)
    kind = goes_through(amqp_url, queue_name)
    assert kind is (GenericConsumer if reads else AmqpConsumer)
    (warning,) = warnings_of(caplog)
    assert gone in warning


@pytest.mark.parametrize("gone", every(internals.REDIS_READS))
def test_g18_a_worker_on_redis_does_not_read_in_a_way_that_can_lose_a_message_unless_that_is_accepted(
    redis_url: str, queue_name: str, gone: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lose(monkeypatch, gone)
    with pytest.raises(ConfigurationError, match=f"lacks [a-z]+[.]{gone}.* lose a message") as refused:
        open_transport(open_connection(redis_url)).consumer([queue_name], clock=SYSTEM)
    assert "--accept-loss" in str(refused.value.hint)
    assert warnings_of(caplog) == []
    kind = goes_through(redis_url, queue_name, accept_loss=True)
    assert issubclass(kind, GenericConsumer)
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("gone", sorted({*every(internals.REDIS_SENDS)} - {*every(internals.REDIS_READS)}))
def test_sending_to_redis_goes_on_without_what_a_driver_has_lost(
    redis_url: str, queue_name: str, gone: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lose(monkeypatch, gone)
    assert goes_through(redis_url, queue_name) is RedisConsumer
    (warning,) = warnings_of(caplog)
    assert gone in warning


def test_this_release_of_each_driver_has_all_that_is_needed(redis_url: str, amqp_url: str, queue_name: str) -> None:
    assert goes_through(redis_url, queue_name) is RedisConsumer
    assert goes_through(amqp_url, queue_name) is AmqpConsumer


def test_generic_can_be_asked_for_and_on_redis_needs_the_loss_to_be_accepted(
    redis_url: str, amqp_url: str, queue_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert goes_through(amqp_url, queue_name, generic=True) is GenericConsumer
    with pytest.raises(ConfigurationError, match="STEM_TRANSPORT is generic"):
        open_transport(open_connection(redis_url), generic=True).consumer([queue_name], clock=SYSTEM)
    assert issubclass(goes_through(redis_url, queue_name, generic=True, accept_loss=True), GenericConsumer)
    assert warnings_of(caplog) == []
