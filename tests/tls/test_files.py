"""What the ``STEM_TLS_*`` variables may name, and what a certificate says of itself."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from stem_kombu.clock import SYSTEM
from stem_kombu.drivers.certificate import first_certificate, parse_certificate
from stem_kombu.drivers.routes import cautions, routes
from stem_kombu.drivers.tls import checked_tls
from stem_kombu.errors import ConfigurationError
from stem_kombu.settings import Settings, TlsSettings
from stem_kombu.transports.connections import open_connection
from tests.servers.papers import Authority, Pair, Papers


@pytest.mark.parametrize("missing", ["STEM_TLS_CLIENT_CERT", "STEM_TLS_CLIENT_KEY"])
def test_half_a_client_pair_is_refused(papers: Papers, missing: str) -> None:
    cert, key = str(papers.client.cert), str(papers.client.key)
    half = TlsSettings(None, cert, None) if missing.endswith("KEY") else TlsSettings(None, None, key)
    with pytest.raises(ConfigurationError, match=f"{missing} is not"):
        open_connection("rediss://localhost/0", tls=half)


@pytest.mark.parametrize("variable", ["STEM_TLS_CA_CERT", "STEM_TLS_CLIENT_CERT", "STEM_TLS_CLIENT_KEY"])
def test_each_file_is_refused_by_the_name_of_its_variable(papers: Papers, tmp_path: Path, variable: str) -> None:
    wrong = {
        "there is no file": tmp_path / "none.pem",
        "can't be read: Is a directory": tmp_path,
        "can't be loaded as": tmp_path / "garbage.pem",
    }
    wrong["can't be loaded as"].write_text("-----BEGIN NOTHING-----")
    for said, path in wrong.items():
        files = [str(path) if variable.endswith(end) else good for end, good in _good(papers).items()]
        with pytest.raises(ConfigurationError) as refused:
            checked_tls(TlsSettings(*files))
        assert str(refused.value).startswith(
            f"{variable}: {str(path)!r}" if "file" not in said else f"{variable}: {said}"
        )
        assert said in str(refused.value)


def _good(papers: Papers) -> dict[str, str]:
    return {"CA_CERT": str(papers.ca), "CLIENT_CERT": str(papers.client.cert), "CLIENT_KEY": str(papers.client.key)}


def test_a_key_that_is_not_the_certificates_is_refused_naming_both(papers: Papers) -> None:
    other = TlsSettings(None, str(papers.client.cert), str(papers.server.key))
    with pytest.raises(
        ConfigurationError, match=r"^STEM_TLS_CLIENT_KEY: .*server\.key' is not the key of .*CLIENT_CERT"
    ):
        checked_tls(other)


def test_a_key_where_a_certificate_belongs_is_told(papers: Papers) -> None:
    swapped = TlsSettings(None, str(papers.client.key), str(papers.client.cert))
    with pytest.raises(ConfigurationError, match=r"^STEM_TLS_CLIENT_CERT: .* it holds a private key"):
        checked_tls(swapped)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_at_the_terminal(papers: Papers, tmp_path: Path) -> None:
    key = serialization.load_pem_private_key(papers.client.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    with pytest.raises(ConfigurationError, match=r"^STEM_TLS_CLIENT_KEY: .*locked\.key' is encrypted"):
        checked_tls(TlsSettings(None, str(papers.client.cert), str(locked)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(papers: Papers, tmp_path: Path) -> None:
    locked = tmp_path / "ca.pem"
    locked.write_bytes(papers.ca.read_bytes())
    locked.chmod(0)
    with pytest.raises(ConfigurationError, match=r"^STEM_TLS_CA_CERT: .* can't be read: Permission denied"):
        checked_tls(TlsSettings(str(locked)))


def test_a_certificate_tells_for_whom_it_is_by_whom_and_until_when(papers: Papers) -> None:
    for path in (papers.server.cert, papers.expired_client.cert, papers.ca, papers.stranger_client.cert):
        known = x509.load_pem_x509_certificate(path.read_bytes())
        found = first_certificate("text before\n" + path.read_text())
        assert found.subject == known.subject.rfc4514_string()
        assert found.issuer == known.issuer.rfc4514_string()
        assert (found.not_before, found.not_after) == (known.not_valid_before_utc, known.not_valid_after_utc)


def test_every_authority_that_this_machine_trusts_can_be_read() -> None:
    context = ssl.create_default_context()
    for der, known in zip(context.get_ca_certs(binary_form=True), context.get_ca_certs(), strict=True):
        found = parse_certificate(der)
        assert found.not_after.timestamp() == ssl.cert_time_to_seconds(str(known["notAfter"]))
        assert found.not_before.timestamp() == ssl.cert_time_to_seconds(str(known["notBefore"]))


def test_days_left_count_down_through_zero(papers: Papers) -> None:
    certificate = first_certificate(papers.server.cert.read_text())
    for hours, days in ((25, 1), (23, 0), (-1, -1), (-25, -2)):
        assert certificate.days_left(certificate.not_after - timedelta(hours=hours)) == days
    assert "expired on" in certificate.validity(certificate.not_after + timedelta(1))
    assert "not valid before" in certificate.validity(certificate.not_before - timedelta(1))
    assert "valid until" in certificate.validity(SYSTEM.utcnow())


def test_what_a_name_holds_can_not_steer_the_terminal(tmp_path: Path) -> None:
    pair = Authority(tmp_path, "ca").pair("evil\x1b[2J\nCN=admin", file="evil")
    assert first_certificate(pair.cert.read_text()).subject == "CN=evil?[2J?CN=admin"


@given(st.data())
def test_no_bytes_are_more_than_no_certificate(papers: Papers, data: st.DataObject) -> None:
    whole = ssl.PEM_cert_to_DER_cert(papers.server.cert.read_text())
    cut = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for at in data.draw(st.lists(st.integers(0, max(0, len(cut) - 1)), max_size=8)):
        if cut:
            cut[at] = data.draw(st.integers(0, 255))
    for garbage in (bytes(cut), data.draw(st.binary(max_size=64))):
        try:
            parse_certificate(garbage)
        except ValueError:
            pass


def test_reading_of_certificates_does_not_delay_the_program() -> None:
    heavy = "import stem_kombu_cli.main, sys; sys.exit('ssl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", heavy], check=False).returncode == 0


# -- what is told at every start -----------------------------------------------------------------------------------------


def said_of(**environ: str) -> list[str]:
    return cautions(Settings.from_env({f"STEM_{name}": value for name, value in environ.items()}))


def test_a_server_without_tls_is_told_where_tls_is_configured() -> None:
    (said,) = said_of(TLS_CA_CERT="/ca.pem", BROKER_URL="redis://:hunter2@h/0", RESULT_BACKEND_URL="rediss://h/1")
    assert said == (
        "STEM_TLS_… is set, but STEM_BROKER_URL (redis://:***@h/0) does not ask for TLS: nothing is encrypted there"
    )
    assert said_of(BROKER_URL="redis://h/0") == []
    assert said_of(TLS_CA_CERT="/ca.pem", BROKER_URL="sqlite:///b.db", REVOKE_STORE_URL="postgresql://h/d") == []


def test_a_client_certificate_that_ends_soon_or_has_ended_is_told(papers: Papers, tmp_path: Path) -> None:
    def said_with(pair: Pair) -> list[str]:
        return said_of(TLS_CLIENT_CERT=str(pair.cert), TLS_CLIENT_KEY=str(pair.key), BROKER_URL="rediss://h")

    (soon,), (ended,) = said_with(papers.client), said_with(papers.expired_client)
    assert soon.startswith(f"renew STEM_TLS_CLIENT_CERT ({papers.client.cert}, CN=client): valid until")
    assert "CN=expired-client): expired on" in ended
    assert said_with(Authority(tmp_path, "ca").pair("lasting", days=30)) == []


def test_verification_that_is_off_is_told() -> None:
    assert said_of(BROKER_URL="rediss://h", TLS_ALLOW_INSECURE="yes") == [
        "STEM_TLS_ALLOW_INSECURE is on: servers are not verified"
    ]
    for url, what in (
        ("rediss://h/0?ssl_cert_reqs=CERT_NONE", "the server"),
        ("rediss://h/0?ssl_check_hostname=false", "the name of the server"),
        ("postgresql://h/d?sslmode=require", "the server"),
        ("postgresql://h/d?sslmode=verify-ca", "the name of the server"),
    ):
        (said,) = said_of(BROKER_URL="amqp://h", REVOKE_STORE_URL=url)
        assert f"does not verify {what}:" in said
        assert url in said


def test_a_password_in_a_flag_is_told_and_one_in_a_variable_is_not() -> None:
    settings = Settings.from_env({"STEM_RESULT_BACKEND_URL": "redis://:hunter2@h/1"}, broker="amqp://u:hunter2@h//")
    (said,) = cautions(settings)
    assert said.startswith("--broker has a password in it")
    assert said.endswith("set STEM_BROKER_URL instead")
    assert "hunter2" not in said


def test_routes_know_their_endpoints_by_the_defaults_of_each_protocol() -> None:
    settings = Settings.from_env(
        {
            "STEM_BROKER_URL": "amqps://a//;amqps://[::1]:7//",
            "STEM_RESULT_BACKEND_URL": "rediss://r/1",
            "STEM_REVOKE_STORE_URL": "postgresql://p/d?sslmode=verify-full",
        }
    )
    ends = [(route.component, str(route.endpoint)) for route in routes(settings)]
    assert ends == [
        ("broker", "a:5671"),
        ("broker", "[::1]:7"),
        ("backend", "r:6379"),
        ("revoke_store", "p:5432"),
        ("celery_results", "r:6379"),
    ]
