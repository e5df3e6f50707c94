"""Opening and connecting: what is refused before anything connects, and what a failure says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.errors import BrokerUnavailable, ConfigurationError
from stem_kombu.settings import Settings
from stem_kombu.transports import names
from stem_kombu.transports.connections import backoff, broker_connection, connect, open_connection, pump
from stem_kombu.transports.errors import shown_url
from tests.transports.receiving import Inbox, Relay, connected
from tests.waiting import eventually


def with_credentials(url: str, credentials: str, port: int | None = None) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{port or parts.port}"))


@pytest.fixture
def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    kept.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in kept:
            each.close()


# -- before anything connects -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("gopher://h", "unknown scheme 'gopher'"),
        ("os.path://h", "unknown scheme"),
        ("just-a-word", "is not a URL"),
        ("redis://h:99999/0", "bad port"),
        ("redis://h:port/0", "bad port"),
        ("amqp://a;gopher://b", "unknown scheme 'gopher'"),
        ("redis://h/not-a-number", "database"),
    ],
)
def test_a_url_that_means_nothing_is_refused_naming_where_it_came_from(url: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^STEM_BROKER_URL: .*{reason}") as refused:
        open_connection(url, name="STEM_BROKER_URL")
    assert "redis://" in (refused.value.hint or "")


def test_the_settings_name_the_variable_that_holds_the_url() -> None:
    settings = Settings.from_env({"STEM_BROKER_URL": "gopher://h"})
    with pytest.raises(ConfigurationError, match=r"^STEM_BROKER_URL: 'gopher://h'"):
        broker_connection(settings)


def test_a_driver_that_is_not_installed_is_refused_with_what_to_install() -> None:
    # consul is the one that nobody has by chance
    with pytest.raises(ConfigurationError, match=r"can't be loaded") as refused:
        connect(open_connection("consul://h", name="--broker"))
    assert "kombu[consul]" in (refused.value.hint or "")


@pytest.mark.parametrize("url", ["redis://u:s3cret@127.0.0.1:99999/0", "gopher://u:s3cret@h", "u:s3cret@h"])
def test_no_password_is_shown_when_a_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_connection(url)
    assert "s3cret" not in f"{refused.value} {refused.value.hint}" or "://" not in url


# -- connecting -------------------------------------------------------------------------------------------------------


def test_a_connection_is_up_when_connect_returns_and_connecting_again_does_nothing(broker_url: str) -> None:
    connection = open_connection(broker_url)
    assert connect(connection) is connection
    assert connection.connected
    inner = connection.connection
    assert connect(connection).connection is inner
    connection.release()


@pytest.mark.parametrize("scheme", ["redis://:s3cret@127.0.0.1:{}/0", "amqp://u:s3cret@127.0.0.1:{}//"])
def test_a_broker_that_does_not_run_is_reported_at_once_with_its_masked_url(scheme: str, closed_port: int) -> None:
    with pytest.raises(BrokerUnavailable, match=r"connection refused") as failed:
        connect(open_connection(scheme.format(closed_port)))
    assert f"127.0.0.1:{closed_port}" in str(failed.value)
    assert "***" in str(failed.value)
    assert "s3cret" not in str(failed.value)
    assert failed.value.hint


@pytest.mark.parametrize("scheme", ["redis://{}:6379/0", "amqp://{}//"])
def test_a_host_that_does_not_exist_is_named(scheme: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"can't be resolved|not connected within"):
        connect(open_connection(scheme.format("no-such-host.invalid")), 5.0)


@pytest.mark.parametrize("scheme", ["redis://127.0.0.1:{}/0", "amqp://127.0.0.1:{}//"])
def test_g13_a_broker_that_never_answers_costs_one_deadline_in_all(scheme: str, silent_port: int) -> None:
    given = open_connection(scheme.format(silent_port))
    started = SYSTEM.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"not connected within 0.5 s|no answer in time"):
        connect(given, 0.5)
    # Generous to a busy machine, and far below the drivers' own timeouts of ten seconds and more.
    assert SYSTEM.monotonic() - started < 4.0


def test_a_wrong_password_is_told_from_an_unreachable_broker(amqp_url: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"user or password was not accepted") as failed:
        connect(open_connection(with_credentials(amqp_url, "nobody:s3cret")))
    assert "s3cret" not in str(failed.value)


def test_a_password_that_redis_does_not_know_is_told_from_an_unreachable_broker(redis_url: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"user or password was not accepted") as failed:
        connect(open_connection(with_credentials(redis_url, "nobody:s3cret")))
    assert "s3cret" not in str(failed.value)


def test_a_virtual_host_that_does_not_exist_is_named(amqp_url: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"virtual host"):
        connect(open_connection(amqp_url.rstrip("/") + "/no-such-vhost"))


def test_a_server_of_another_kind_is_not_taken_for_a_broker(amqp_url: str) -> None:
    with pytest.raises(BrokerUnavailable):
        connect(open_connection(f"redis://127.0.0.1:{urlsplit(amqp_url).port}/0"), 3.0)


def test_alternates_are_tried_in_turn(redis_url: str, closed_port: int) -> None:
    connection = connect(open_connection(f"redis://127.0.0.1:{closed_port}/0;{redis_url}"))
    assert connection.connected
    connection.release()


def test_after_a_failure_a_clone_connects_once_the_broker_is_there(redis_url: str, closed_port: int) -> None:
    given = open_connection(redis_url)
    given.port, right = closed_port, given.port
    with pytest.raises(BrokerUnavailable):
        connect(given)
    given.port = right
    again = connect(given.clone())
    assert again.connected
    again.release()


def test_the_embedded_broker_is_known_by_its_scheme(tmp_path: Path) -> None:
    connection = connect(open_connection(f"sqlite:///{tmp_path / 'b.db'}"))
    assert connection.transport.driver_type == "sqlite"
    connection.release()


# -- draining ---------------------------------------------------------------------------------------------------------


def test_pumping_an_idle_connection_ends_at_the_deadline(broker_url: str) -> None:
    connection = connected(broker_url)
    channel = connection.default_channel
    Inbox(connection, names.direct_queue("test-idle", expires=5))
    started = SYSTEM.monotonic()
    assert pump(connection, 0.3) is False
    assert 0.25 <= SYSTEM.monotonic() - started < 3.0
    channel.queue_delete("test-idle")
    connection.release()


def test_pumping_keeps_an_amqp_connection_alive_that_has_nothing_to_say(amqp_url: str) -> None:
    # given a broker that hangs up on a client which is silent for two heartbeats of one second
    connection = open_connection(amqp_url)
    connection.heartbeat = 1.0
    connect(connection)
    # when nothing happens for several of them
    deadline = SYSTEM.monotonic() + 4.0
    while SYSTEM.monotonic() < deadline:
        pump(connection, 0.2)
    # then it is still there
    assert connection.default_channel.queue_declare("test-alive", exclusive=True).queue == "test-alive"
    connection.release()


def test_a_connection_that_breaks_while_it_is_pumped_is_noticed(server_url: str) -> None:
    relay = Relay(urlsplit(server_url).port or 0)
    parts = urlsplit(server_url)
    credentials = f"{parts.username or ''}:{parts.password or ''}" if parts.password else ""
    url = urlunsplit(parts._replace(netloc=f"{credentials + '@' if credentials else ''}127.0.0.1:{relay.port}"))
    connection = connected(url)
    Inbox(connection, names.direct_queue("test-cut", expires=2))
    pump(connection, 0.1)
    relay.close()
    with pytest.raises(connection.connection_errors):
        eventually(lambda: pump(connection, 0.1), 10.0)
    relay.close()


# -- waiting ----------------------------------------------------------------------------------------------------------


def test_the_back_off_doubles_up_to_its_longest_and_is_spread() -> None:
    assert [backoff(n, first=0.1, longest=5.0, jitter=1.0) for n in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8]
    assert backoff(1000, longest=5.0, jitter=1.0) == 5.0
    assert backoff(3, first=0.1, jitter=0.0) == 0.2
    assert len({backoff(5) for _ in range(20)}) > 1
    assert 0.05 <= backoff(0) <= 0.1


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://10.0.0.1:6379/1", "redis://10.0.0.1:6379/1"),
        ("redis://:se%40cret@10.0.0.1:6379/1", "redis://:***@10.0.0.1:6379/1"),
        ("amqp://ops:secret@10.0.0.1:5672/v", "amqp://ops:***@10.0.0.1:5672/v"),
    ],
)
def test_a_url_is_shown_with_its_password_masked_and_without_one_where_there_is_none(url: str, shown: str) -> None:
    assert shown_url(open_connection(url)) == shown
