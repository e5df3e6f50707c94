"""Servers that speak TLS and ask their clients for certificates: Redis, RabbitMQ and PostgreSQL themselves.

Redis has no list of revoked certificates; where that is wanted, people put a TLS terminator in front of it, and so does
``redis_with_crl``.
"""

from __future__ import annotations

import os
import shutil
import signal
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stem_kombu.drivers.certificate import first_certificate
from stem_kombu.drivers.handshake import Endpoint, shake_hands
from stem_kombu.settings import TlsSettings
from stem_kombu.testing.ports import free_port
from tests.servers.papers import Pair, Papers, make_papers
from tests.servers.postgres import PostgresServer
from tests.servers.process import Reaper, ServerProcess
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer
from tests.transports.receiving import Relay
from tests.waiting import eventually


class TlsRedis(RedisServer):
    """A Redis with a TLS port beside its plain one."""

    def __init__(self, reaper: Reaper, papers: Papers, shown: Pair) -> None:
        self.tls_port = free_port()
        files = {"cert": shown.cert, "key": shown.key, "ca-cert": papers.ca}
        options = [word for name, path in files.items() for word in (f"--tls-{name}-file", str(path))]
        options += ["--tls-auth-clients", "yes", "--tls-port", str(self.tls_port)]
        super().__init__(reaper, options=options, password="redis-secret")


class TlsPostgres(PostgresServer):
    """A PostgreSQL that takes no connection without TLS, a client certificate and a password."""

    def __init__(self, reaper: Reaper, papers: Papers) -> None:
        super().__init__(reaper)
        access = self.directory / "access"
        # The plain line is for the fixture itself, which has no certificate.
        access.write_text(
            "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n"
            "hostnossl postgres,template1 all 127.0.0.1/32 scram-sha-256\n"
        )
        self._own(access)
        files = {"ssl_ca_file": papers.ca, "ssl_crl_file": papers.crl}
        for name, path in files.items():
            self._options += ["-c", f"{name}={self._copied(path, path.name)}"]
        self._show(papers.server)
        self._options += ["-c", "ssl=on", "-c", f"hba_file={access}"]
        for name in ("cert", "key"):
            self._options += ["-c", f"ssl_{name}_file={self.directory / f'server.{name}'}"]

    @contextmanager
    def showing(self, pair: Pair, usually: Pair) -> Iterator[None]:
        """The running server shows that certificate, until the block ends."""
        try:
            self._reload(pair)
            yield
        finally:
            self._reload(usually)

    def _reload(self, pair: Pair) -> None:
        self._show(pair)
        os.kill(self.pid, signal.SIGHUP)
        endpoint = Endpoint("localhost", self.port, asks_first=True)
        shown = first_certificate(pair.cert.read_text())
        nobody = TlsSettings()
        eventually(lambda: shake_hands(endpoint, nobody, verify=False).certificate == shown, ignoring=(OSError,))

    def _show(self, pair: Pair) -> None:
        self._copied(pair.cert, "server.cert")
        self._copied(pair.key, "server.key")

    def _copied(self, path: Path, name: str) -> Path:
        copy = self.directory / name
        copy.write_bytes(path.read_bytes())
        self._own(copy)
        return copy

    def _own(self, path: Path) -> None:
        path.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(path, "postgres")


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return make_papers(tmp_path_factory.mktemp("papers"))


def _started(server: TlsRedis | TlsPostgres) -> Iterator[TlsRedis | TlsPostgres]:
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def tls_redis(server_reaper: Reaper, redis_server: RedisServer, papers: Papers) -> Iterator[TlsRedis]:
    yield from _started(TlsRedis(server_reaper, papers, papers.server))  # type: ignore[misc]


@pytest.fixture(scope="session")
def expired_redis(server_reaper: Reaper, redis_server: RedisServer, papers: Papers) -> Iterator[TlsRedis]:
    yield from _started(TlsRedis(server_reaper, papers, papers.expired_server))  # type: ignore[misc]


@pytest.fixture(scope="session")
def redis_with_crl(tls_redis: TlsRedis, papers: Papers) -> Iterator[int]:
    """The port of a TLS terminator that knows the list of revoked certificates, in front of a Redis."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(papers.ca))
    context.load_verify_locations(str(papers.crl))
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    context.load_cert_chain(str(papers.server.cert), str(papers.server.key))
    relay = Relay(tls_redis.port, lambda near: context.wrap_socket(near, server_side=True))
    yield relay.port
    relay.close()


class TlsRabbit:
    """TLS listeners of the session's RabbitMQ, opened while it runs."""

    def __init__(self, server: RabbitServer, papers: Papers) -> None:
        self.server = server
        server.evaluate(f'ssl_crl_cache:insert({{file, "{papers.crl}"}})')
        self.port = self._listener(papers, papers.server)
        self.expired_port = self._listener(papers, papers.expired_server)

    def _listener(self, papers: Papers, shown: Pair) -> int:
        port = free_port()
        options = (
            f'[{{cacertfile, "{papers.ca}"}}, {{certfile, "{shown.cert}"}}, {{keyfile, "{shown.key}"}},'
            " {verify, verify_peer}, {fail_if_no_peer_cert, true},"
            " {crl_check, peer}, {crl_cache, {ssl_crl_cache, {internal, []}}}]"
        )
        opened = self.server.evaluate(f'rabbit_networking:start_ssl_listener({{"127.0.0.1", {port}}}, {options}, 3)')
        assert opened == "ok", opened
        return port


@pytest.fixture(scope="module")
def tls_rabbit(rabbitmq_server: RabbitServer, papers: Papers) -> TlsRabbit:
    rabbitmq_server.start()
    return TlsRabbit(rabbitmq_server, papers)


@pytest.fixture(scope="session")
def tls_postgres(server_reaper: Reaper, postgres_server: PostgresServer, papers: Papers) -> Iterator[TlsPostgres]:
    yield from _started(TlsPostgres(server_reaper, papers))  # type: ignore[misc]


class TlsSentinel(ServerProcess):
    """A sentinel that speaks TLS alone, to its clients and to the master that it watches."""

    name = "Sentinel"

    def __init__(self, reaper: Reaper, master: TlsRedis, papers: Papers) -> None:
        super().__init__(reaper)
        self._master, self._papers = master, papers

    @property
    def url(self) -> str:
        return f"redis+sentinel://:redis-secret@localhost:{self.port}/main/3"

    def prepare(self) -> None:
        shown, ca = self._papers.server, self._papers.ca
        (self.directory / "sentinel.conf").write_text(
            f"port 0\ntls-port {self.port}\nbind {self.host}\ntls-auth-clients yes\ntls-replication yes\n"
            f"tls-cert-file {shown.cert}\ntls-key-file {shown.key}\ntls-ca-cert-file {ca}\n"
            "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n"
            f"sentinel monitor main localhost {self._master.tls_port} 1\nsentinel auth-pass main redis-secret\n"
        )

    def command(self) -> list[str]:
        program = shutil.which("redis-server")
        assert program is not None
        return [program, str(self.directory / "sentinel.conf"), "--sentinel"]

    def answers(self) -> bool:
        shake_hands(Endpoint("localhost", self.port), self._papers.tls(self._papers.client), verify=True)
        return True


@pytest.fixture
def tls_sentinel(server_reaper: Reaper, tls_redis: TlsRedis, papers: Papers) -> Iterator[TlsSentinel]:
    sentinel = TlsSentinel(server_reaper, tls_redis, papers)
    try:
        sentinel.start()
        yield sentinel
    finally:
        sentinel.close()
