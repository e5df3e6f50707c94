"""An authority and a certificate for 127.0.0.1, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files; ``stranger`` is an authority that signed nothing."""

    ca: Path
    cert: Path
    key: Path
    stranger: Path


def make_certificates(folder: Path) -> Certificates:
    ca, stranger = _authority(folder, "ca"), _authority(folder, "stranger")
    key, request, cert = (folder / f"server.{kind}" for kind in ("key", "csr", "pem"))
    names = folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nauthorityKeyIdentifier=keyid\n")
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", key, "-out", request)
    signing = ("-CA", ca, "-CAkey", ca.with_suffix(".key"), "-CAcreateserial", "-days", "2", "-extfile", names)
    _openssl("x509", "-req", "-in", request, "-out", cert, *signing)
    return Certificates(ca, cert, key, stranger)


def _authority(folder: Path, name: str) -> Path:
    cert = folder / f"{name}.pem"
    made = ("-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}")
    made += ("-addext", "keyUsage=critical,keyCertSign,cRLSign")  # Python 3.13 asks for it
    _openssl("req", *made, "-keyout", cert.with_suffix(".key"), "-out", cert)
    return cert


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
