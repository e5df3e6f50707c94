"""The ways from here to broker, backend and revoke store: which are encrypted, and how far the other end is verified."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from stem_kombu.clock import SYSTEM
from stem_kombu.drivers.handshake import Endpoint, endpoint_of
from stem_kombu.drivers.tls import CA_CERT, SOON, client_certificate, postgres_mode, uses_tls, verifies, verifies_name
from stem_kombu.redaction import is_misread, mask_url, passwords_of
from stem_kombu.settings import Settings, Source, TlsSettings

logger = logging.getLogger(__name__)

#: What a flag is called in the environment, where other users of the machine can't read it.
_VARIABLES = {
    "--broker": "STEM_BROKER_URL",
    "--backend": "STEM_RESULT_BACKEND_URL",
    "--revoke-store": "STEM_REVOKE_STORE_URL",
}
_LOCAL = ("sqlite", "file", "memory", "unix", "redis+socket", "none")


@dataclass(frozen=True, slots=True)
class Route:
    """One way. ``component`` is ``broker``, ``backend``, ``revoke_store`` or ``celery_results``; ``endpoint`` is where TLS is
    spoken, ``None`` for a plain route and for one of several servers."""

    component: str
    source: Source
    endpoint: Endpoint | None
    encrypted: bool
    verified: bool
    name_checked: bool


def routes(settings: Settings) -> list[Route]:
    """Each way over a network that the settings name; several brokers in one URL are several."""
    named = [
        ("broker", settings.broker),
        ("backend", settings.backend),
        ("revoke_store", settings.revoke_store),
        ("celery_results", settings.celery_results),
    ]
    found = []
    for component, source in named:
        for url in source.value.split(";") if source is not None else ():
            if source is not None and "://" in url and not url.startswith(_LOCAL) and _can_be_read(url):
                found.append(_route(component, Source(url, source.name), settings.tls))
    return found


def cautions(settings: Settings) -> list[str]:
    """What is unsafe about these settings, each as a sentence."""
    said = []
    if settings.tls.allow_insecure:
        said.append("STEM_TLS_ALLOW_INSECURE is on: servers are not verified")
    own, now = client_certificate(settings.tls), SYSTEM.utcnow()
    if own is not None and own.days_left(now) < SOON:
        said.append(f"renew STEM_TLS_CLIENT_CERT ({settings.tls.client_cert}, {own.subject}): {own.validity(now)}")
    for route in routes(settings):
        name, shown = route.source.name, mask_url(route.source.value)
        if name in _VARIABLES and passwords_of(route.source.value):
            said.append(
                f"{name} has a password in it, which every user of this machine can read in the list of processes:"
                f" set {_VARIABLES[name]} instead"
            )
        if settings.tls and not route.encrypted:
            said.append(f"STEM_TLS_… is set, but {name} ({shown}) does not ask for TLS: nothing is encrypted there")
        elif route.encrypted and not settings.tls.allow_insecure and not (route.verified and route.name_checked):
            what = "the name of the server" if route.verified else "the server"
            said.append(f"{name} ({shown}) does not verify {what}: {CA_CERT} and no option of the URL would")
    return list(dict.fromkeys(said))


def warn_of_routes(settings: Settings) -> None:
    """Log a warning for each of :func:`cautions`."""
    for caution in cautions(settings):
        logger.warning("%s", caution)


def _can_be_read(url: str) -> bool:
    """Whether it is a URL at all; what is wrong with one that isn't is told where it is opened."""
    try:
        urlsplit(url)
    except ValueError:
        return False
    return not is_misread(url)


def _route(component: str, source: Source, tls: TlsSettings) -> Route:
    url = source.value
    if not url.startswith("postgres"):
        encrypted = uses_tls(url) or (url.startswith("redis+sentinel") and bool(tls))
        verified = encrypted and verifies(url, tls)
        named = verified and verifies_name(url)
        return Route(component, source, endpoint_of(url), encrypted, verified, named)
    mode = postgres_mode(dict(parse_qsl(urlsplit(url).query)).get("sslmode"), tls)
    # To libpq a given authority is a reason to verify it even in the mode "require".
    verified = mode.startswith("verify") or (mode == "require" and bool(tls.ca_cert) and not tls.allow_insecure)
    encrypted = mode.startswith("verify") or mode == "require"
    return Route(component, source, endpoint_of(url) if encrypted else None, encrypted, verified, mode == "verify-full")
