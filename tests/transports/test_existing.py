"""What a worker makes of a host application's connection."""

from __future__ import annotations

from typing import Any

import pytest
from kombu import Connection, pools
from kombu.pools import ProducerPool

from stem_kombu import timeouts
from stem_kombu.errors import ConfigurationError
from stem_kombu.settings import Settings
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.existing import beside

SETTINGS = Settings.from_env({}, broker="memory://existing", revoke_store="memory://existing")
REDIS = "redis://:secret@redis.example:6390/3"
AMQP = "amqp://shop:secret@rabbit.example:5673/shop"


def made(given: object) -> Any:
    return beside(given, SETTINGS)


def test_a_plain_amqp_connection_gets_a_heartbeat_confirms_and_timeouts() -> None:
    connection = made(Connection(AMQP))

    assert connection.heartbeat == timeouts.BROKER_HEARTBEAT
    assert connection.transport_options == {
        "confirm_publish": True,
        "read_timeout": timeouts.BROKER_REPLY,
        "write_timeout": timeouts.BROKER_REPLY,
    }
    assert connection.as_uri(include_password=True) == Connection(AMQP).as_uri(include_password=True)


def test_the_liveness_that_a_host_has_set_itself_is_kept() -> None:
    amqp = made(Connection(AMQP, heartbeat=5, transport_options={"read_timeout": 3, "write_timeout": None}))
    by_url = made(Connection(f"{AMQP}?heartbeat=7"))
    redis = made(Connection(REDIS, transport_options={"socket_timeout": 2.5, "socket_keepalive": None}))

    assert (amqp.heartbeat, by_url.heartbeat) == (5, 7)
    assert amqp.transport_options["read_timeout"] == 3
    assert (
        amqp.transport_options["write_timeout"] == timeouts.BROKER_REPLY
    )  # None is Kombu's way to say that nothing is set
    assert redis.transport_options["socket_timeout"] == 2.5
    assert redis.transport_options["socket_keepalive"] is True


def test_g19_what_is_held_on_redis_has_stems_lease_and_keys_whatever_the_host_has_set() -> None:
    celerys = {
        "visibility_timeout": 5,
        "unacked_key": "unacked",
        "unacked_restore_limit": 3,
        "ack_emulation": False,
        "fanout_prefix": False,
        "retry_on_timeout": True,
        "global_keyprefix": "shop:",
        "priority_steps": list(range(10)),
        "sep": ":",
        "queue_order_strategy": "priority",
        "client_name": "shop",
    }
    given = Connection(REDIS, transport_options=dict(celerys), ssl={"ssl_ca_certs": "/etc/ca.pem"})
    connection = made(given)

    options = connection.transport_options
    assert options["visibility_timeout"] == timeouts.REDIS_LEASE
    assert (options["unacked_key"], options["unacked_index_key"]) == ("stem-unacked", "stem-unacked-index")
    assert (options["ack_emulation"], options["fanout_prefix"], options["retry_on_timeout"]) == (True, True, False)
    kept = ("global_keyprefix", "priority_steps", "sep", "queue_order_strategy", "client_name", "unacked_restore_limit")
    assert {name: options[name] for name in kept} == {name: celerys[name] for name in kept}
    assert connection.ssl == {"ssl_ca_certs": "/etc/ca.pem"}
    assert given.transport_options == celerys, "the host's own connection was changed"


def test_a_connection_with_stems_own_keys_keeps_its_lease() -> None:
    given = open_connection(REDIS, options={"visibility_timeout": 1.5})

    assert made(given).transport_options["visibility_timeout"] == 1.5


def test_pools_and_the_text_of_a_url_are_as_good_as_a_connection() -> None:
    connections = pools.connections[Connection(AMQP)]
    producers = pools.producers[Connection(AMQP)]
    assert isinstance(producers, ProducerPool)

    for given in (connections, producers, Connection(AMQP).Pool(2), AMQP):
        connection = made(given)
        assert (connection.hostname, connection.heartbeat) == ("rabbit.example", timeouts.BROKER_HEARTBEAT)


def test_the_other_hosts_of_a_failover_list_are_tried_with_the_same_options() -> None:
    several = "amqp://a.example:5672//;amqp://b.example:5672//"
    connection = made(Connection(several, failover_strategy="shuffle"))

    assert connection.alt == several.split(";")
    connection.switch("amqp://b.example:5672//")
    assert (connection.hostname, connection.heartbeat) == ("b.example", timeouts.BROKER_HEARTBEAT)


def test_a_transport_in_this_process_is_polled_as_often_as_the_settings_own() -> None:
    assert made(Connection("memory://")).transport_options["polling_interval"] == 0.01
    assert made(Connection("memory://", transport_options={"polling_interval": 1})).transport_options == {
        "polling_interval": 1
    }


@pytest.mark.parametrize(
    "given", [object(), 7, pools.connections, {"hostname": "h"}], ids=["object", "7", "pools", "mapping"]
)
def test_what_is_no_connection_is_refused_by_its_kind(given: object) -> None:
    with pytest.raises(ConfigurationError, match=type(given).__name__) as caught:
        made(given)

    assert caught.value.hint == "pass kombu.Connection(url)"


def test_a_text_that_is_no_url_is_refused_without_its_password() -> None:
    with pytest.raises(ConfigurationError, match="connection: ") as caught:
        made("nosuch://shop:hunter2@h/")

    assert "hunter2" not in str(caught.value)
