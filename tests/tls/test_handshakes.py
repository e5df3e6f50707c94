"""TLS to real servers: who may not connect is refused, by name, with the certificate and what to try."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from stem_kombu.drivers.postgres import PostgresDatabase
from stem_kombu.drivers.redis import RedisDatabase
from stem_kombu.drivers.schema import Schema
from stem_kombu.errors import BrokerUnavailable, ConfigurationError, StemError, StoreUnavailable
from stem_kombu.revocation import RevocationDraft
from stem_kombu.settings import TlsSettings
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.transports.connections import connect, open_connection
from stem_kombu.transports.tls import uses_tls
from tests.servers.papers import Papers
from tests.tls.conftest import TlsPostgres, TlsRabbit, TlsRedis, TlsSentinel

#: Reaches a server with settings and shows how that went; the address is ``localhost`` unless told otherwise.
Reach = Callable[..., None]


def reach_broker(url: str, tls: TlsSettings) -> None:
    connection = connect(open_connection(url, tls=tls))
    clone = connect(connection.clone())
    assert connection.connected
    assert clone.connected
    clone.release()
    connection.release()


def reach_store(url: str, tls: TlsSettings) -> None:
    store = open_revoke_store(url, tls=tls)
    try:
        store.save("stem", [RevocationDraft("t")])
    finally:
        store.close()


class Ends:
    """The three servers, each reached as its clients reach it."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    def reach(self, kind: str, tls: TlsSettings, host: str = "localhost", *, expired: bool = False) -> None:
        url = self.url(kind, host, expired=expired)
        reach_broker(url, tls) if kind in ("redis broker", "amqp broker") else reach_store(url, tls)

    def url(self, kind: str, host: str = "localhost", *, expired: bool = False) -> str:
        if kind == "amqp broker":
            rabbit: TlsRabbit = self._request.getfixturevalue("tls_rabbit")
            return f"amqps://guest:guest@{host}:{rabbit.expired_port if expired else rabbit.port}//"
        if kind == "postgres store":
            postgres: TlsPostgres = self._request.getfixturevalue("tls_postgres")
            return postgres.url.replace("127.0.0.1", host)
        redis: TlsRedis = self._request.getfixturevalue("expired_redis" if expired else "tls_redis")
        return f"rediss://:redis-secret@{host}:{redis.tls_port}/0"


@pytest.fixture
def ends(request: pytest.FixtureRequest) -> Ends:
    return Ends(request)


KINDS = pytest.mark.parametrize("kind", ["redis broker", "redis store", "amqp broker", "postgres store"])


@KINDS
def test_an_authority_and_a_client_pair_connect(ends: Ends, papers: Papers, kind: str) -> None:
    ends.reach(kind, papers.tls(papers.client))


def refusal(ends: Ends, kind: str, tls: TlsSettings, host: str = "localhost", **more: bool) -> StemError:
    with pytest.raises((BrokerUnavailable, StoreUnavailable)) as refused:
        ends.reach(kind, tls, host, **more)
    assert f"{host}:{urlsplit(ends.url(kind, host, **more)).port}" in str(refused.value)
    assert "secret" not in str(refused.value)
    return refused.value


@KINDS
def test_a_server_of_an_unknown_authority_is_refused(ends: Ends, papers: Papers, kind: str) -> None:
    error = refusal(ends, kind, papers.tls(papers.client, ca=papers.stranger))
    assert f"is not trusted by STEM_TLS_CA_CERT ({papers.stranger}) (CN=server, signed by CN=ca, valid until" in str(
        error
    )
    assert error.hint == "set STEM_TLS_CA_CERT to the certificate of the authority that signed it"


@KINDS
def test_without_an_authority_the_systems_are_asked_and_nothing_is_let_pass(
    ends: Ends, papers: Papers, kind: str
) -> None:
    pair = TlsSettings(None, str(papers.client.cert), str(papers.client.key))
    error = refusal(ends, kind, pair)
    # the latter from a libpq before 16
    assert re.search("is not trusted by the system's authorities|there is no authority to verify", str(error))
    assert (error.hint or "").startswith("set STEM_TLS_CA_CERT")


@KINDS
def test_a_certificate_for_another_name_is_refused(ends: Ends, papers: Papers, kind: str) -> None:
    # 127.0.0.1 is the same server, but its certificate says localhost
    error = refusal(ends, kind, papers.tls(papers.client), "127.0.0.1")
    assert "is for another name (CN=server" in str(error)
    assert error.hint == "use the host name that the certificate was made for"


@KINDS
def test_an_expired_certificate_of_the_server_is_refused(
    ends: Ends, papers: Papers, kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "postgres store":
        postgres: TlsPostgres = request.getfixturevalue("tls_postgres")
        with postgres.showing(papers.expired_server, papers.server):
            error = refusal(ends, kind, papers.tls(papers.client))
    else:
        error = refusal(ends, kind, papers.tls(papers.client), expired=True)
    assert "has expired (CN=expired-server, signed by CN=ca, expired on" in str(error)
    assert error.hint == "renew the server's certificate"


@KINDS
def test_a_client_without_a_certificate_is_told_to_bring_one(ends: Ends, papers: Papers, kind: str) -> None:
    error = refusal(ends, kind, papers.tls())
    assert "asks for a client certificate" in str(error)
    assert error.hint == "set STEM_TLS_CLIENT_CERT and STEM_TLS_CLIENT_KEY"


@KINDS
def test_an_expired_client_certificate_is_named_with_its_file_and_its_end(
    ends: Ends, papers: Papers, kind: str
) -> None:
    error = refusal(ends, kind, papers.tls(papers.expired_client))
    path = papers.expired_client.cert
    assert f"refused the client certificate ({path}, CN=expired-client, expired on" in str(error)
    assert "certificate expired" in str(error)
    assert (error.hint or "").startswith("renew it: set STEM_TLS_CLIENT_CERT")


@KINDS
def test_a_client_certificate_of_another_authority_is_refused(ends: Ends, papers: Papers, kind: str) -> None:
    error = refusal(ends, kind, papers.tls(papers.stranger_client))
    assert f"refused the client certificate ({papers.stranger_client.cert}, CN=stranger-client" in str(error)
    assert "does not know the authority" in (error.hint or "")


@pytest.mark.parametrize("kind", ["amqp broker", "postgres store"])
def test_a_revoked_client_certificate_is_refused(ends: Ends, papers: Papers, kind: str) -> None:
    error = refusal(ends, kind, papers.tls(papers.revoked_client))
    assert f"refused the client certificate ({papers.revoked_client.cert}, CN=revoked-client" in str(error)
    assert "certificate revoked" in str(error)
    assert "list of revoked certificates" in (error.hint or "")


@pytest.mark.parametrize("reach", [reach_broker, reach_store])
def test_a_revoked_client_certificate_is_refused_by_a_terminator_before_redis(
    redis_with_crl: int, papers: Papers, reach: Reach
) -> None:
    url = f"rediss://:redis-secret@localhost:{redis_with_crl}/0"
    reach(url, papers.tls(papers.client))
    with pytest.raises((BrokerUnavailable, StoreUnavailable), match="certificate revoked") as refused:
        reach(url, papers.tls(papers.revoked_client))
    assert str(papers.revoked_client.cert) in str(refused.value)


@KINDS
def test_allow_insecure_skips_verification_and_nothing_else_does(ends: Ends, papers: Papers, kind: str) -> None:
    ends.reach(kind, papers.tls(papers.client, ca=papers.stranger, allow_insecure=True), "127.0.0.1")


@pytest.mark.parametrize("reach", [reach_broker, reach_store])
def test_an_option_of_a_redis_url_replaces_its_own_setting_and_no_other(
    tls_redis: TlsRedis, papers: Papers, reach: Reach
) -> None:
    # Kombu alone would forget the authority and the client's pair here.
    url = f"rediss://:redis-secret@127.0.0.1:{tls_redis.tls_port}/0?ssl_check_hostname=false"
    reach(url, papers.tls(papers.client))
    with pytest.raises((BrokerUnavailable, StoreUnavailable), match="is not trusted"):
        reach(url, papers.tls(papers.client, ca=papers.stranger))


@pytest.mark.parametrize("reach", [reach_broker, reach_store])
def test_ssl_true_in_a_redis_url_is_rediss_for_broker_and_store_alike(
    tls_redis: TlsRedis, papers: Papers, reach: Reach
) -> None:
    url = f"redis://:redis-secret@localhost:{tls_redis.tls_port}/0?ssl=true"
    reach(url, papers.tls(papers.client))
    with pytest.raises((BrokerUnavailable, StoreUnavailable), match="is not trusted"):
        reach(url, papers.tls(papers.client, ca=papers.stranger))


def test_sentinels_are_asked_over_tls_as_well_as_their_master(tls_sentinel: TlsSentinel, papers: Papers) -> None:
    reach_store(tls_sentinel.url, papers.tls(papers.client))
    for tls in (papers.tls(papers.client, ca=papers.stranger), papers.tls(), TlsSettings()):
        with pytest.raises(StoreUnavailable):
            reach_store(tls_sentinel.url, tls)


def test_amqp_with_ssl_in_its_query_is_amqps(tls_rabbit: TlsRabbit, papers: Papers) -> None:
    reach_broker(f"amqp://guest:guest@localhost:{tls_rabbit.port}//?ssl=true", papers.tls(papers.client))


def test_alternates_are_verified_each_by_its_own_name(tls_rabbit: TlsRabbit, papers: Papers) -> None:
    first = "amqps://guest:guest@127.0.0.1:1//"
    reach_broker(f"{first};amqps://guest:guest@localhost:{tls_rabbit.port}//", papers.tls(papers.client))
    with pytest.raises(BrokerUnavailable, match="is for another name"):
        reach_broker(f"{first};amqps://guest:guest@127.0.0.1:{tls_rabbit.port}//", papers.tls(papers.client))


def test_alternates_with_and_without_tls_are_refused() -> None:
    # Kombu would have reached the second without verifying anything.
    with pytest.raises(ConfigurationError, match=r"^STEM_BROKER_URL: .* with TLS and brokers without it"):
        open_connection("amqp://u:hunter2@a//;amqps://u:hunter2@b//", name="STEM_BROKER_URL")


def test_tls_to_a_plain_port_and_plain_to_a_tls_port_are_told(
    redis_url: str, postgres_url: str, tls_redis: TlsRedis, papers: Papers
) -> None:
    tls = papers.tls(papers.client)
    # Redis waits for the rest of what it takes for a command.
    plain = f"rediss://localhost:{urlsplit(redis_url).port}/0"
    with pytest.raises(BrokerUnavailable, match="not connected within") as silent:
        connect(open_connection(plain, tls=tls), 0.5)
    assert "speaks TLS" in (silent.value.hint or "")
    database = RedisDatabase(plain, tls=tls, timeout=0.5)
    with pytest.raises(StoreUnavailable, match=r"TLS|no answer"):
        database.run(lambda client: client.ping())
    for reach in (reach_broker, reach_store):
        with pytest.raises((BrokerUnavailable, StoreUnavailable)) as failed:
            reach(f"redis://localhost:{tls_redis.tls_port}/0", TlsSettings())
        assert "rediss://" in (failed.value.hint or ""), str(failed.value)
    with pytest.raises(StoreUnavailable, match="does not speak TLS") as told:
        reach_store(postgres_url, tls)
    assert "sslmode=disable" in (told.value.hint or "")


@pytest.fixture
def database(tls_postgres: TlsPostgres) -> Callable[..., bool]:
    """Whether a connection with those settings and that query is encrypted."""

    def is_encrypted(tls: TlsSettings, query: str = "") -> bool:
        url = tls_postgres.url.replace("127.0.0.1", "localhost") + query
        opened = PostgresDatabase(url, schema=Schema.of([]), tls=tls)
        try:
            found = opened.read(lambda this: this.rows("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
        finally:
            opened.close()
        return bool(found[0][0])

    return is_encrypted


def test_an_sslmode_of_the_url_goes_before_the_settings(database: Callable[..., bool], papers: Papers) -> None:
    tls = papers.tls(papers.client)
    assert database(tls)
    assert database(tls, "?sslmode=verify-ca")
    assert not database(tls, "?sslmode=disable")
    for query in ("", "?sslmode=verify-ca", "?sslmode=require"):  # require verifies where an authority is given
        with pytest.raises(StoreUnavailable, match="is not trusted"):
            database(papers.tls(papers.client, ca=papers.stranger), query)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", False),
        ("rediss://h", True),
        ("amqp://h", False),
        ("amqps://h", True),
        ("amqp://h//?ssl=true", True),
        ("amqp://h//?ssl=false", False),
        ("redis://h/0?ssl_cert_reqs=required", True),
        ("sqlite:///b.db", False),
    ],
)
def test_the_url_decides_whether_tls_is_used(url: str, expected: bool) -> None:
    assert uses_tls(url) is expected
