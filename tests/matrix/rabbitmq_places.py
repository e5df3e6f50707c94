"""RabbitMQ in the matrix: queues of both kinds, by TLS, and a cluster that loses a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stem_kombu.testing.ports import free_port
from stem_kombu.transports.connections import open_connection
from tests.faults.fleet import Servers
from tests.matrix.place import Place, rows_of_postgres, rows_of_sqlite
from tests.matrix.servers import JoinedRabbit
from tests.servers.papers import make_papers
from tests.servers.process import Reaper
from tests.servers.rabbitmq import RabbitServer


@contextmanager
def rabbitmq(servers: Servers, folder: Path) -> Iterator[Place]:
    server, store = servers.get("rabbitmq"), servers.new_url("postgres", folder)
    yield _place_at(server, server.new_vhost(), store)


@contextmanager
def quorum_queues(servers: Servers, folder: Path) -> Iterator[Place]:
    with rabbitmq(servers, folder) as place:
        _declare(place.broker, {"x-queue-type": "quorum"})
        yield place


@contextmanager
def rabbitmq_by_tls(servers: Servers, folder: Path) -> Iterator[Place]:
    papers, port = make_papers(folder), free_port()
    files = f'{{cacertfile, "{papers.ca}"}}, {{certfile, "{papers.server.cert}"}}, {{keyfile, "{papers.server.key}"}}'
    options = f"[{files}, {{verify, verify_peer}}, {{fail_if_no_peer_cert, true}}]"
    with rabbitmq(servers, folder) as place:
        opened = servers.get("rabbitmq").evaluate(
            f'rabbit_networking:start_ssl_listener({{"127.0.0.1", {port}}}, {options}, 3)'
        )
        assert opened == "ok", opened
        user, vhost = place.broker.partition("//")[2].partition("@")[0], place.broker.rpartition("/")[2]
        # With certificates of its own Stem takes no PostgreSQL without TLS.
        store, at_broker = folder / "state.db", place.left

        def left() -> Counter[str]:
            return at_broker() + rows_of_sqlite(store)

        yield replace(
            place,
            broker=f"amqps://{user}@localhost:{port}/{vhost}",
            store=f"sqlite://{store}",
            left=left,
            environment=papers.variables(),
        )


@contextmanager
def several_hosts(servers: Servers, folder: Path) -> Iterator[Place]:
    """Two nodes of a cluster; the queue of the tasks is at the second one, and the first one can be killed."""
    reaper, store = Reaper(), servers.new_url("postgres", folder)
    first = RabbitServer(reaper)
    second = JoinedRabbit(reaper, first)
    try:
        first.start()
        second.start()
        url = first.new_vhost()
        other = url.replace(f":{first.port}/", f":{second.port}/")
        _declare(other, {})

        def left() -> Counter[str]:
            node = first if first.running else second
            return Counter(node.queues(url)) + rows_of_postgres(store)

        place = _place_at(first, url, store)
        yield replace(place, broker=f"{url};{other}", left=left, fail_over=first.kill, bring_back=first.start)
    finally:
        second.close()
        first.close()
        reaper.close()


def _place_at(server: RabbitServer, url: str, store: str) -> Place:
    version = server.evaluate("rabbit_misc:version()").strip('"')
    return Place(url, store, lambda: Counter(server.queues(url)) + rows_of_postgres(store), about=f"RabbitMQ {version}")


def _declare(url: str, arguments: dict[str, str]) -> None:
    """Make the queue of the tasks beforehand."""
    from kombu import Queue

    with open_connection(url) as connection:
        Queue("default", durable=True, queue_arguments=arguments)(connection.default_channel).declare()
