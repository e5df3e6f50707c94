"""What a certificate holds: its subject, who signed it, until when it holds.

Read from its DER, because Python's ``ssl`` tells it only of a certificate that it has verified, and an operator needs to
know it most of one that was refused. Nothing is verified here. Source of the shape: RFC 5280, section 4.1.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

_SEQUENCE, _SET, _EXPLICIT_0 = 0x30, 0x31, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
#: The strings that names are made of, and how each is encoded.
_STRINGS = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be", 0x1C: "utf-32-be"}
#: Object identifiers of what stands in a name, with the letters of RFC 4514.
_LETTERS = {
    b"\x55\x04\x03": "CN",
    b"\x55\x04\x06": "C",
    b"\x55\x04\x07": "L",
    b"\x55\x04\x08": "ST",
    b"\x55\x04\x0a": "O",
    b"\x55\x04\x0b": "OU",
    b"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19": "DC",
    b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01": "emailAddress",
}
_LONGEST_NAME = 200
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Certificate:
    """``subject`` and ``issuer`` as ``CN=redis.example,O=Shop``; times are aware UTC."""

    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime

    def days_left(self, now: datetime) -> int:
        """Whole days until it expires, negative once it has."""
        return (self.not_after - now).days

    def validity(self, now: datetime) -> str:
        """Its validity as words that follow its name in a message."""
        if now < self.not_before:
            return f"not valid before {self.not_before:%Y-%m-%d %H:%M} UTC"
        if now > self.not_after:
            return f"expired on {self.not_after:%Y-%m-%d %H:%M} UTC"
        return f"valid until {self.not_after:%Y-%m-%d}"


def first_certificate(pem: str) -> Certificate:
    """The first certificate of a PEM text, which is its owner's own where a chain follows. Raises ``ValueError``."""
    begin = pem.find(_BEGIN)
    end = pem.find(_END, begin)
    if begin < 0 or end < 0:
        raise ValueError("there is no certificate in it")
    return parse_certificate(ssl.PEM_cert_to_DER_cert(pem[begin : end + len(_END)]))


def parse_certificate(der: bytes) -> Certificate:
    """What the DER bytes of a certificate say. Raises ``ValueError`` for anything else."""
    try:
        return _parsed(der)
    except (IndexError, StopIteration, OverflowError, UnicodeDecodeError) as error:
        raise ValueError("that is no certificate") from error


def _parsed(der: bytes) -> Certificate:
    certificate = _expect(_elements(der), _SEQUENCE)
    fields = _elements(_expect(_elements(certificate), _SEQUENCE))
    tag, _ = next(fields)
    if tag == _EXPLICIT_0:  # the version; the serial number follows
        next(fields)
    next(fields)  # the algorithm
    issuer = _name(_expect(fields, _SEQUENCE))
    times = _elements(_expect(fields, _SEQUENCE))
    not_before, not_after = _time(*next(times)), _time(*next(times))
    return Certificate(_name(_expect(fields, _SEQUENCE)), issuer, not_before, not_after)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each element of a DER sequence as its tag and its contents."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4 or at + size > len(data):
                raise ValueError("that is no certificate")
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise ValueError("that is no certificate")
        yield tag, data[at : at + length]
        at += length


def _expect(elements: Iterator[tuple[int, bytes]], tag: int) -> bytes:
    found, contents = next(elements)
    if found != tag:
        raise ValueError("that is no certificate")
    return contents


def _name(data: bytes) -> str:
    parts = []
    for tag, relative in _elements(data):
        if tag != _SET:
            raise ValueError("that is no certificate")
        for _, attribute in _elements(relative):
            pair = _elements(attribute)
            kind, (text_tag, text) = _expect(pair, 0x06), next(pair)
            if kind in _LETTERS and text_tag in _STRINGS:
                # The maker of the certificate chose the text, and it is shown on a terminal.
                shown = text.decode(_STRINGS[text_tag])
                parts.append(f"{_LETTERS[kind]}={''.join(sign if sign.isprintable() else '?' for sign in shown)}")
    return ",".join(parts)[:_LONGEST_NAME] or "(no name)"


def _time(tag: int, contents: bytes) -> datetime:
    text = contents.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year: from 1950 to 2049
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("that is no certificate")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
