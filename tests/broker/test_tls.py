"""TLS: from the settings to a verified connection."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from stem_kombu.broker.connections import connect, open_connection
from stem_kombu.broker.tls import uses_tls
from stem_kombu.clock import SYSTEM
from stem_kombu.errors import BrokerUnavailable, ConfigurationError
from stem_kombu.settings import TlsSettings
from tests.broker.receiving import Relay

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


@dataclass(frozen=True)
class Papers:
    """PEM files: an authority, a certificate for a server and a client signed by it, and one that signed neither."""

    ca: str
    server_cert: str
    server_key: str
    client_cert: str
    client_key: str
    stranger: str


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("tls")

    def authority(name: str) -> tuple[str, str]:
        key, cert = str(folder / f"{name}.key"), str(folder / f"{name}.pem")
        _openssl(
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            f"/CN={name}",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",  # Python 3.13 asks for it
            "-keyout",
            key,
            "-out",
            cert,
        )
        return cert, key

    ca, ca_key = authority("ca")
    stranger, _ = authority("stranger")

    def signed(name: str) -> tuple[str, str]:
        key, request, cert = (str(folder / f"{name}.{end}") for end in ("key", "csr", "pem"))
        names = folder / f"{name}.ext"
        names.write_text("subjectAltName=DNS:localhost\nauthorityKeyIdentifier=keyid\n")
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        _openssl(
            "x509",
            "-req",
            "-in",
            request,
            "-CA",
            ca,
            "-CAkey",
            ca_key,
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            str(names),
            "-out",
            cert,
        )
        return cert, key

    return Papers(ca, *signed("server"), *signed("client"), stranger)


@pytest.fixture(scope="module")
def redis_tls_port(papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Redis that speaks TLS only, and asks its clients for certificates."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    process = subprocess.Popen(
        [
            program, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--save", "",
            "--dir", str(tmp_path_factory.mktemp("redis-tls")), "--tls-cert-file", papers.server_cert,
            "--tls-key-file", papers.server_key, "--tls-ca-cert-file", papers.ca, "--tls-auth-clients", "yes",
        ],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = SYSTEM.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            assert process.poll() is None, "redis-server did not start"
            assert SYSTEM.monotonic() < deadline, "redis-server did not start in time"
            SYSTEM.sleep(0.02)
    yield port
    process.terminate()
    process.wait()


@pytest.fixture
def amqps_port(papers: Papers, amqp_url: str) -> Iterator[int]:
    """RabbitMQ behind a relay that ends TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(papers.server_cert, papers.server_key)
    relay = Relay(urlsplit(amqp_url).port or 0, lambda near: context.wrap_socket(near, server_side=True))
    yield relay.port
    relay.close()


def mutual(papers: Papers) -> TlsSettings:
    return TlsSettings(papers.ca, papers.client_cert, papers.client_key)


def test_rediss_with_authority_and_client_pair_connects(redis_tls_port: int, papers: Papers) -> None:
    connection = connect(open_connection(f"rediss://localhost:{redis_tls_port}/0", tls=mutual(papers)))
    assert connection.connected
    clone = connect(connection.clone())
    assert clone.connected
    clone.release()
    connection.release()


def test_amqps_with_authority_connects(amqps_port: int, papers: Papers) -> None:
    connection = connect(open_connection(f"amqps://guest:guest@localhost:{amqps_port}//", tls=TlsSettings(papers.ca)))
    assert connection.connected
    connection.release()


def test_amqp_with_ssl_in_its_query_is_amqps(amqps_port: int, papers: Papers) -> None:
    url = f"amqp://guest:guest@localhost:{amqps_port}//?ssl=true"
    connection = connect(open_connection(url, tls=TlsSettings(papers.ca)))
    assert connection.connected
    connection.release()


def test_a_certificate_of_an_unknown_authority_is_refused_naming_the_variable(
    redis_tls_port: int, amqps_port: int, papers: Papers
) -> None:
    strange = TlsSettings(papers.stranger, papers.client_cert, papers.client_key)
    for url in (f"rediss://localhost:{redis_tls_port}/0", f"amqps://guest:guest@localhost:{amqps_port}//"):
        for tls in (strange, TlsSettings()):
            with pytest.raises(BrokerUnavailable, match=r"certificate is not trusted") as failed:
                connect(open_connection(url, tls=tls))
            assert "STEM_TLS_CA_CERT" in (failed.value.hint or "")


def test_a_certificate_for_another_name_is_refused(redis_tls_port: int, amqps_port: int, papers: Papers) -> None:
    # 127.0.0.1 is the same server, but the certificate says localhost
    for url in (f"rediss://127.0.0.1:{redis_tls_port}/0", f"amqps://guest:guest@127.0.0.1:{amqps_port}//"):
        with pytest.raises(BrokerUnavailable, match=r"certificate is for another name"):
            connect(open_connection(url, tls=mutual(papers)))


def test_allow_insecure_skips_verification_and_nothing_else_does(
    redis_tls_port: int, amqps_port: int, papers: Papers
) -> None:
    insecure = TlsSettings(None, papers.client_cert, papers.client_key, allow_insecure=True)
    for url in (f"rediss://127.0.0.1:{redis_tls_port}/0", f"amqps://guest:guest@127.0.0.1:{amqps_port}//"):
        connection = connect(open_connection(url, tls=insecure))
        assert connection.connected
        connection.release()


def test_one_field_of_the_url_does_not_drop_the_settings(redis_tls_port: int, papers: Papers) -> None:
    # Kombu alone would forget the authority and the client's pair here.
    url = f"rediss://127.0.0.1:{redis_tls_port}/0?ssl_check_hostname=false"
    connection = connect(open_connection(url, tls=mutual(papers)))
    assert connection.connected
    connection.release()


def test_a_server_that_wants_a_client_certificate_says_so(redis_tls_port: int, papers: Papers) -> None:
    with pytest.raises(BrokerUnavailable) as failed:
        connect(open_connection(f"rediss://localhost:{redis_tls_port}/0", tls=TlsSettings(papers.ca)))
    assert "STEM_TLS_CLIENT_CERT" in (failed.value.hint or ""), str(failed.value)


def test_tls_to_a_plain_port_and_plain_to_a_tls_port_are_told(
    redis_url: str, redis_tls_port: int, papers: Papers
) -> None:
    plain_port = urlsplit(redis_url).port
    with pytest.raises(BrokerUnavailable) as failed:
        connect(open_connection(f"rediss://localhost:{plain_port}/0", tls=mutual(papers)), 1.0)
    assert "TLS" in f"{failed.value} {failed.value.hint}"
    with pytest.raises(BrokerUnavailable) as failed:
        connect(open_connection(f"redis://localhost:{redis_tls_port}/0"))
    assert "rediss://" in (failed.value.hint or ""), str(failed.value)


@pytest.mark.parametrize("missing", ["STEM_TLS_CLIENT_CERT", "STEM_TLS_CLIENT_KEY"])
def test_half_a_client_pair_is_refused(papers: Papers, missing: str) -> None:
    half = (
        TlsSettings(papers.ca, None, papers.client_key)
        if missing == "STEM_TLS_CLIENT_CERT"
        else TlsSettings(papers.ca, papers.client_cert, None)
    )
    with pytest.raises(ConfigurationError, match=f"{missing} is not"):
        open_connection("rediss://localhost/0", tls=half)


def test_a_file_that_is_missing_or_no_pem_is_refused_naming_its_variable(tmp_path: Path, papers: Papers) -> None:
    with pytest.raises(ConfigurationError, match=r"^STEM_TLS_CA_CERT: there is no file"):
        open_connection("rediss://localhost/0", tls=TlsSettings(str(tmp_path / "none.pem")))
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    with pytest.raises(ConfigurationError, match=r"^STEM_TLS_CA_CERT: can't be loaded"):
        open_connection("rediss://localhost/0", tls=TlsSettings(str(garbage)))
    with pytest.raises(ConfigurationError, match=r"^STEM_TLS_CLIENT_CERT and STEM_TLS_CLIENT_KEY: can't be loaded"):
        open_connection("amqps://localhost//", tls=TlsSettings(papers.ca, papers.client_cert, papers.server_key))


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
