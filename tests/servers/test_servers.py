"""The servers do what fault tests rely on: they answer, die, come back on their port, and keep what they promised."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest
import redis
from kombu import Connection

from tests.servers.postgres import PostgresServer
from tests.servers.process import ServerProcess, conversation
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer
from tests.waiting import eventually

SERVERS = ["redis_server", "rabbitmq_server", "postgres_server"]
#: What a client says first to each, and how the answer begins.
GREETINGS = {
    "Redis": (b"*1\r\n$4\r\nPING\r\n", b"+PONG"),
    "RabbitMQ": (b"AMQP\x00\x00\x09\x01", b"\x01"),
    "PostgreSQL": (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"N"),  # SSLRequest: no
}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> ServerProcess:
    found: ServerProcess = request.getfixturevalue(request.param)
    found.start()
    return found


def greets(server: ServerProcess) -> bool:
    said, expected = GREETINGS[server.name]
    return conversation(server.host, server.port, said).startswith(expected)


def test_a_killed_server_refuses_and_comes_back_on_its_port(server: ServerProcess) -> None:
    pid, port = server.pid, server.port
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        greets(server)
    server.start()
    assert greets(server)
    assert (server.port, server.pid != pid) == (port, True)


def test_a_paused_server_keeps_connections_open_and_says_nothing(server: ServerProcess) -> None:
    server.pause()
    try:
        with pytest.raises(TimeoutError):
            conversation(server.host, server.port, GREETINGS[server.name][0], timeout=0.3)
    finally:
        server.resume()
    assert greets(server)


def test_start_and_stop_may_be_called_twice(server: ServerProcess) -> None:
    pid = server.pid
    server.start()
    assert server.pid == pid
    server.stop()
    server.stop()
    assert not server.running
    server.start()
    assert greets(server)


def test_redis_keeps_what_it_acknowledged_over_a_kill(redis_server: RedisServer, redis_url: str) -> None:
    redis.Redis.from_url(redis_url).set("kept", "yes")
    redis_server.kill()
    redis_server.start()
    assert redis.Redis.from_url(redis_url).get("kept") == b"yes"


def test_redis_databases_do_not_meet(redis_server: RedisServer, redis_url: str) -> None:
    other = redis_server.new_database()
    redis.Redis.from_url(redis_url).set("here", "1")
    assert redis.Redis.from_url(other).keys() == []


def test_one_more_redis_refuses_a_wrong_password(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(password="right")
    assert redis.Redis.from_url(server.url).ping()
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(server.url.replace("right", "wrong")).ping()


def test_postgres_keeps_what_it_committed_over_a_kill(postgres_server: PostgresServer, postgres_url: str) -> None:
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 42 AS n")
    connection.close()
    postgres_server.kill()
    postgres_server.start()
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT n FROM kept")
        assert cursor.fetchone() == (42,)
    connection.close()


def test_postgres_refuses_a_wrong_password(postgres_url: str) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(postgres_url.replace("stem-secret", "wrong"))


def test_rabbitmq_keeps_a_durable_queue_over_a_kill(rabbitmq_server: RabbitServer, amqp_url: str) -> None:
    with Connection(amqp_url, transport_options={"confirm_publish": True}) as connection:  # unconfirmed may be lost
        queue = connection.SimpleQueue("kept")
        queue.put({"n": 42})
        queue.close()
    rabbitmq_server.kill()
    rabbitmq_server.start()
    assert rabbitmq_server.queues(amqp_url) == {"kept"}
    with Connection(amqp_url) as connection:
        queue = connection.SimpleQueue("kept")
        assert queue.get(timeout=5).payload == {"n": 42}
        queue.close()


def test_rabbitmq_vhosts_do_not_meet(rabbitmq_server: RabbitServer, amqp_url: str) -> None:
    other = rabbitmq_server.new_vhost()
    with Connection(amqp_url) as connection:
        connection.SimpleQueue("here").close()
    assert rabbitmq_server.queues(other) == set()
    rabbitmq_server.drop_vhost(other)


def test_every_broker_carries_a_message_between_two_connections(broker_url: str) -> None:
    with Connection(broker_url) as connection:
        queue = connection.SimpleQueue("first")
        queue.put("hello")
        queue.close()
    with Connection(broker_url) as connection:
        queue = connection.SimpleQueue("first")
        message = queue.get(timeout=5)
        message.ack()
        assert message.payload == "hello"
        queue.close()


ORPHAN = """
import sys
from tests.servers.process import Reaper
from tests.servers.redis import RedisServer
server = RedisServer(Reaper())
server.start()
print(server.pid, server.directory, flush=True)
sys.stdin.read()
"""


def test_a_server_does_not_outlive_a_session_that_was_killed(redis_server: RedisServer) -> None:
    root = Path(__file__).resolve().parents[2]
    session = subprocess.Popen(
        [sys.executable, "-c", ORPHAN], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert session.stdout is not None
    pid, directory = session.stdout.readline().split()
    assert exists(int(pid))
    session.send_signal(signal.SIGKILL)
    session.communicate()
    eventually(lambda: not exists(int(pid)), message="the server lives on")
    eventually(lambda: not Path(directory).exists(), message="its files are still there")


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:  # dead, and not collected by its new parent yet
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc").exists()
