"""TLS handshakes: how one went, and why one failed in words that an operator can act on.

Drivers hand on OpenSSL's message, each in a form of its own, and often only a part of it: libpq leaves out why a
certificate was refused, and Redis closes a connection before its client has read the alert. So a failure is looked into
with a handshake of our own, and the message names the endpoint, the certificate and the next step.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.drivers.certificate import Certificate, parse_certificate
from stem_kombu.drivers.diagnosis import Diagnosis
from stem_kombu.drivers.tls import CA_CERT, CLIENT_CERT, CLIENT_KEY, client_certificate, client_context, uses_tls
from stem_kombu.settings import TlsSettings

_PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5671, "amqps": 5671, "postgres": 5432, "postgresql": 5432}
#: PostgreSQL's SSLRequest: a length of 8 and the number that asks for TLS; the answer is one letter.
_SSL_REQUEST = bytes.fromhex("00000008 04d2162f")
_NO_TLS = ("wrong version number", "record layer failure", "does not support ssl", "packet length too long")
_HOW_TO_ASK = "use its TLS port, or a URL that doesn't ask for TLS (redis://, amqp://, ?sslmode=disable)"
#: The words of the TLS alert that a server sent.
_ALERT = re.compile(r"alert ([a-z ]+?)(?= \(|'|\)|\.|$)")
#: What to do about an alert by which a server refuses a client's certificate.
_REFUSALS = (
    (
        "revoked",
        f"it is on the server's list of revoked certificates: set {CLIENT_CERT} and {CLIENT_KEY} to a new pair",
    ),
    ("expired", f"renew it: set {CLIENT_CERT} and {CLIENT_KEY} to a new pair"),
    (
        "unknown ca",
        f"the server does not know the authority that signed it: set {CLIENT_CERT} to one of its own authority",
    ),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where TLS is spoken. ``asks_first``: the server is asked for TLS in its own protocol before (PostgreSQL)."""

    host: str
    port: int
    asks_first: bool = False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Handshake:
    """How a handshake went: ``protocol`` is like ``TLSv1.3``; ``certificate`` is the server's."""

    protocol: str
    cipher: str
    certificate: Certificate


def endpoint_of(url: str) -> Endpoint | None:
    """Where TLS is spoken for that URL of Redis, AMQP (if it asks for TLS) or PostgreSQL; ``None`` where it isn't, or where
    several servers stand behind the URL."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    asks_first = scheme.startswith("postgres")
    if scheme not in _PORTS or not (asks_first or uses_tls(url)):
        return None
    try:
        host, port = unquote(parts.hostname or "localhost"), parts.port or _PORTS[scheme]
    except ValueError:
        return None
    return None if "," in host or host.startswith("/") else Endpoint(host, port, asks_first)


def shake_hands(
    endpoint: Endpoint,
    tls: TlsSettings,
    *,
    verify: bool,
    check_name: bool = True,
    alert_wait: float = 0.0,
    timeout: float = timeouts.HANDSHAKE,
) -> Handshake:
    """A connection of our own, closed again. ``alert_wait``: seconds to wait for an alert, by which a server of TLS 1.3 refuses a
    client's certificate after its end of the handshake. Raises ``OSError`` (``ssl.SSLError`` is one)."""
    context = client_context(tls, verify=verify)
    context.check_hostname = verify and check_name
    with _connected(endpoint, timeout) as plain, context.wrap_socket(plain, server_hostname=endpoint.host) as encrypted:
        der = encrypted.getpeercert(binary_form=True)
        cipher = encrypted.cipher()
        if der is None or cipher is None:  # an anonymous cipher, which no default context offers
            raise ssl.SSLError("the server has shown no certificate")
        try:
            certificate = parse_certificate(der)
        except ValueError as error:
            raise ssl.SSLError(str(error)) from error
        found = Handshake(encrypted.version() or "", cipher[0], certificate)
        if alert_wait > 0:
            encrypted.settimeout(alert_wait)
            with contextlib.suppress(TimeoutError):
                if not encrypted.recv(1):
                    raise ssl.SSLError("the server closed the connection")
        return found


@contextlib.contextmanager
def _connected(endpoint: Endpoint, timeout: float) -> Iterator[socket.socket]:
    with socket.create_connection((endpoint.host, endpoint.port), timeout) as plain:
        if endpoint.asks_first:
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                raise ssl.SSLError("the server does not support SSL")
        yield plain


def explained(text: str, endpoint: Endpoint | None, tls: TlsSettings) -> Diagnosis | None:
    """What failed and what to try, when that text of a driver's error is about TLS; else ``None``.

    ``endpoint`` is ``None`` where TLS was not asked for; else another handshake may look into the failure.
    """
    lowered = text.lower()
    if any(phrase in lowered for phrase in _NO_TLS):
        where = "the server" if endpoint is None else str(endpoint)
        return Diagnosis(f"{where} does not speak TLS on that port ({text})", _HOW_TO_ASK)
    if "private key" in lowered and ("access" in lowered or "permission" in lowered):
        return Diagnosis(
            f"the client's key can't be used ({text})", f"let no other user read the file of {CLIENT_KEY} (chmod 600)"
        )
    if endpoint is None:
        return None
    explain = next((explain for pattern, explain in _FAILURES if pattern.search(lowered)), None)
    return None if explain is None else explain(text, endpoint, tls)


def _no_authority(text: str, endpoint: Endpoint, tls: TlsSettings) -> Diagnosis:
    return Diagnosis(  # a libpq before 16 knows no authorities of the system
        f"there is no authority to verify {endpoint} with",
        f"set {CA_CERT} to the certificate of the authority that signed its certificate",
    )


def _failed(text: str, endpoint: Endpoint, tls: TlsSettings) -> Diagnosis:
    return Diagnosis(
        f"TLS with {endpoint} failed ({text})", f"check {CA_CERT}, {CLIENT_CERT} and the server's TLS settings"
    )


def _not_verified(text: str, endpoint: Endpoint, tls: TlsSettings) -> Diagnosis:
    try:
        shake_hands(endpoint, tls, verify=True, timeout=timeouts.HANDSHAKE_AGAIN)
    except (OSError, ValueError) as error:
        # libpq leaves out the reason, and words it in another way for host names.
        text = str(error) if isinstance(error, ssl.SSLCertVerificationError) else text
    try:
        shown = shake_hands(endpoint, tls, verify=False, timeout=timeouts.HANDSHAKE_AGAIN).certificate
    except (OSError, ValueError):
        shown = None
    reason = re.sub(r".*certificate verify failed: |\.? \(_ssl\.c.*", "", text).strip()
    lowered = reason.lower()
    facts = f" ({reason})"
    if shown is not None:
        facts = f" ({shown.subject}, signed by {shown.issuer}, {shown.validity(SYSTEM.utcnow())}: {reason})"
    if "mismatch" in lowered or "not valid for" in lowered or "match host" in lowered:
        return Diagnosis(
            f"the certificate of {endpoint} is for another name{facts}",
            "use the host name that the certificate was made for",
        )
    if "expired" in lowered:
        return Diagnosis(f"the certificate of {endpoint} has expired{facts}", "renew the server's certificate")
    if "not yet valid" in lowered:
        return Diagnosis(f"the certificate of {endpoint} is not valid yet{facts}", "check the clocks of both machines")
    trusted = f"{CA_CERT} ({tls.ca_cert})" if tls.ca_cert is not None else "the system's authorities"
    return Diagnosis(
        f"the certificate of {endpoint} is not trusted by {trusted}{facts}",
        f"set {CA_CERT} to the certificate of the authority that signed it",
    )


def _broken_off(text: str, endpoint: Endpoint, tls: TlsSettings) -> Diagnosis | None:
    """Why the server may have closed the connection: another handshake, which then waits for the alert. ``None`` when TLS is not
    the reason: the server is away, or this handshake succeeds."""
    try:
        shake_hands(
            endpoint,
            tls,
            verify=not tls.allow_insecure,
            alert_wait=timeouts.HANDSHAKE_ALERT,
            timeout=timeouts.HANDSHAKE_AGAIN,
        )
    except ssl.SSLCertVerificationError as error:
        return _not_verified(str(error), endpoint, tls)
    except ssl.SSLError as error:
        if _ALERT.search(str(error).lower()):
            return _client_refused(str(error), endpoint, tls)
    except (OSError, ValueError):
        return None
    else:
        return None
    own = _own(tls)
    what = f"{endpoint} ended the TLS connection without a reason ({text})"
    if own is None:
        return Diagnosis(
            what, f"if it asks for client certificates, set {CLIENT_CERT} and {CLIENT_KEY}; its log says why"
        )
    return Diagnosis(what, f"it may refuse {own}; its log says why")


def _client_refused(text: str, endpoint: Endpoint, tls: TlsSettings) -> Diagnosis:
    found = _ALERT.search(text.lower())
    alert = "certificate required" if found is None else found[1]
    own = _own(tls)
    if own is None:
        return Diagnosis(f"{endpoint} asks for a client certificate ({alert})", f"set {CLIENT_CERT} and {CLIENT_KEY}")
    known = (hint for words, hint in _REFUSALS if words in alert)
    hint = next(known, f"check {CLIENT_CERT} and {CLIENT_KEY}, and the server's TLS settings")
    return Diagnosis(f"{endpoint} refused {own}: {alert}", hint)


def _own(tls: TlsSettings) -> str | None:
    """The client's certificate as words."""
    if tls.client_cert is None:
        return None
    certificate = client_certificate(tls)
    facts = "" if certificate is None else f", {certificate.subject}, {certificate.validity(SYSTEM.utcnow())}"
    return f"the client certificate ({tls.client_cert}{facts})"


#: What an error's text is about, the more special patterns first.
_FAILURES: tuple[tuple[re.Pattern[str], Callable[[str, Endpoint, TlsSettings], Diagnosis | None]], ...] = (
    (re.compile(r"root certificate file .*does not exist"), _no_authority),
    (re.compile(r"verify failed|does not match host name"), _not_verified),
    (re.compile(rf"requires a valid client certificate|{_ALERT.pattern}"), _client_refused),
    # The server gave up in the middle of a handshake.
    (re.compile(r"eof occurred|unexpected eof|reset by peer|broken pipe|closed"), _broken_off),
    (re.compile(r"ssl|certificate"), _failed),
)
