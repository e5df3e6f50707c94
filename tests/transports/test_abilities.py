"""What transports can do, by trying."""

from __future__ import annotations

from typing import Any

import pytest

from stem_kombu.errors import BroadcastUnsupported, BrokerUnavailable
from stem_kombu.transports import reach as abilities
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.reach import Reach, probe, reach_of


def test_redis_fans_out(redis_url: str) -> None:
    found = reach_of(open_connection(redis_url))
    assert found == probe(open_connection(redis_url)) == Reach("redis", True, True, True)


def test_rabbitmq_fans_out_and_a_sender_must_not_declare_its_queues(amqp_url: str) -> None:
    found = reach_of(open_connection(amqp_url))
    assert found == probe(open_connection(amqp_url)) == Reach("amqp", True, True, False)


def test_the_embedded_broker_fans_out(sqlite_url: str) -> None:
    found = reach_of(open_connection(sqlite_url))
    assert found == probe(open_connection(sqlite_url)) == Reach("sqlite", True, True, True)


def test_memory_fans_out() -> None:
    found = reach_of(open_connection("memory://"))
    assert (found.fanout, found.inbox) == (True, True)


def test_what_was_found_out_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = open_connection("memory://kept")
    first = reach_of(connection)
    monkeypatch.setattr(abilities, "probe", lambda *_, **__: pytest.fail("probed a second time"))
    assert reach_of(connection.clone()) is first


def test_a_transport_whose_fanout_is_dropped_in_silence_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a transport that says it fans out, and drops what it is given (as Kombu's SQLAlchemy transport does)
    from kombu.transport import memory

    def dropped(*_: Any, **__: Any) -> None:
        return None

    monkeypatch.setattr(memory.Channel, "_put_fanout", dropped)
    found = reach_of(open_connection("memory://somewhere"), timeout=0.4)
    assert (found.fanout, found.inbox) == (False, True)
    found.require_control("memory://somewhere")  # workers can be reached one by one


def test_a_transport_that_can_reach_nobody_is_refused() -> None:
    deaf = Reach("deaf", False, False, False)
    with pytest.raises(BroadcastUnsupported, match="'deaf' delivers neither"):
        deaf.require_control("deaf://h")


def test_a_broker_that_is_away_has_no_abilities() -> None:
    with pytest.raises(BrokerUnavailable):
        probe(open_connection("redis://127.0.0.1:1/0"))
