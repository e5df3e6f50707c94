"""Certificates for the tests: an authority, servers and clients of it in every state, and an authority that signed none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stem_kombu.clock import SYSTEM
from stem_kombu.settings import TlsSettings

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """PEM files of a certificate and of its key."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Papers:
    """``server`` is for the name ``localhost`` alone, so that ``127.0.0.1`` is the wrong name of the same server.

    ``crl`` is the authority's list of revoked certificates: it names ``revoked_client``.
    """

    ca: Path
    stranger: Path
    crl: Path
    server: Pair
    expired_server: Pair
    client: Pair
    expired_client: Pair
    revoked_client: Pair
    stranger_client: Pair

    def tls(self, client: Pair | None = None, *, ca: Path | None = None, allow_insecure: bool = False) -> TlsSettings:
        """The settings of somebody who trusts ``ca`` (the authority itself by default) and shows that pair."""
        own = (None, None) if client is None else (str(client.cert), str(client.key))
        return TlsSettings(str(ca or self.ca), *own, allow_insecure=allow_insecure)

    def variables(self, client: Pair | None = None) -> dict[str, str]:
        """The same as variables, with the good client's pair by default."""
        pair = client or self.client
        return {
            "STEM_TLS_CA_CERT": str(self.ca),
            "STEM_TLS_CLIENT_CERT": str(pair.cert),
            "STEM_TLS_CLIENT_KEY": str(pair.key),
        }


class Authority:
    """Signs certificates into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        usage = x509.KeyUsage(
            False, False, False, False, False, True, True, False, False
        )  # signs certificates and CRLs
        self._cert = (
            _begun(self._name, self._name, self._key.public_key(), 30)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = folder / f"{name}.pem"
        self.pem.write_bytes(self._cert.public_bytes(serialization.Encoding.PEM))

    def pair(self, name: str, *, days: float = 2, names: Sequence[str] = ("localhost",), file: str = "") -> Pair:
        """A certificate for ``CN=<name>``, that host name or address, which expires in so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = [
            x509.IPAddress(IPv4Address(one)) if one.replace(".", "").isdigit() else x509.DNSName(one) for one in names
        ]
        cert = (
            _begun(_named(name), self._name, key.public_key(), days)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pair = Pair(self._folder / f"{file or name}.pem", self._folder / f"{file or name}.key")
        pair.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        pair.key.touch(mode=0o600)  # libpq refuses a key that others may read
        pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        return pair

    def revoked(self, *pairs: Pair) -> Path:
        """The list that says that those are revoked."""
        now = SYSTEM.utcnow()
        listed = x509.CertificateRevocationListBuilder(self._name, now - _DAY, now + 2 * _DAY)
        for pair in pairs:
            number = x509.load_pem_x509_certificate(pair.cert.read_bytes()).serial_number
            listed = listed.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now - _DAY).build()
            )
        listed = listed.add_extension(x509.CRLNumber(1), critical=False).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        path = self.pem.with_suffix(".crl")
        path.write_bytes(listed.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


def make_papers(folder: Path) -> Papers:
    ca, stranger = Authority(folder, "ca"), Authority(folder, "stranger")
    revoked = ca.pair("revoked-client")
    return Papers(
        ca=ca.pem,
        stranger=stranger.pem,
        crl=ca.revoked(revoked),
        server=ca.pair("server"),
        expired_server=ca.pair("expired-server", days=-1),
        client=ca.pair("client"),
        expired_client=ca.pair("expired-client", days=-1),
        revoked_client=revoked,
        stranger_client=stranger.pair("stranger-client"),
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    now: datetime = SYSTEM.utcnow().astimezone(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 5 * _DAY)
        .not_valid_after(now + days * _DAY)
    )
