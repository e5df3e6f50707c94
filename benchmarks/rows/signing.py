"""What signing costs: one command signed and verified, a revocation's proof, and a ping of eight workers with and without."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from benchmarks.figures import Figure, Findings, ratio
from benchmarks.lab import BROKERS, Lab, stem_worker
from benchmarks.rows.ping import FLEET, milliseconds
from stem_kombu import ControlClient
from stem_kombu.control.protocol.codec import encode_command
from stem_kombu.control.protocol.messages import Command, Ping
from stem_kombu.revocation import RevocationDraft, merge
from stem_kombu.settings import SigningSettings
from stem_kombu.signing.configuration import open_keyring
from stem_kombu.signing.keyring import Keyring
from stem_kombu.signing.proofs import proven, signed_drafts
from stem_kombu.signing.seal import COMMAND, sealed, unsealed
from stem_kombu.transports import names

CALLS = 3_000
NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
HMAC = SigningSettings(keys="fleet:ZmxlZXQtZmxlZXQtZmxlZXQtZmxlZXQ=", active_key="fleet")
PAIR = SigningSettings(
    algorithm="ed25519", private_keys="fleet:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", active_key="fleet"
)


def measure(lab: Lab, found: Findings) -> None:
    for label, settings, goal in (("hmac-sha256", HMAC, "60 at most"), ("ed25519", PAIR, "")):
        ring = open_keyring(settings)
        assert ring is not None
        found.add(
            Figure(f"{label}: one command signed and verified", _repeated(lab, _command(ring)), "us", goal),
            Figure(f"{label}: one revocation's proof made and judged", _repeated(lab, _proof(ring)), "us"),
        )
    for broker in BROKERS:
        _pings(lab, found, broker)


def _command(ring: Keyring) -> Callable[[], object]:
    later, reply_to = NOW + timedelta(seconds=5), names.reply_name("stem", "client")
    body = encode_command(Command("0123456789abcdef", "stem", Ping(), NOW, later, reply_to, sender="me@host"))
    return lambda: unsealed(sealed(body, COMMAND, ring), COMMAND, ring)


def _proof(ring: Keyring) -> Callable[[], object]:
    draft = RevocationDraft("7c9e6679-7425-40de-944b-e07fc1f90ae7", True, "bad deploy", "me@host", 3600.0)

    def once() -> object:
        signed = signed_drafts([draft], ring, namespace="stem", now=NOW)[0]
        return proven(merge(None, signed, namespace="stem", version=1, now=NOW), ring, NOW)

    return once


def _repeated(lab: Lab, once: Callable[[], object]) -> list[float]:
    """Microseconds of processor time for one call, a sample a round: nothing here waits."""
    samples = []
    for _ in range(max(5, lab.rounds)):
        began = time.process_time_ns()
        for _ in range(CALLS):
            once()
        samples.append((time.process_time_ns() - began) / CALLS / 1000)
    return samples


def _pings(lab: Lab, found: Findings, broker: str) -> None:
    plain = lab.settings(lab.url(broker))
    signed = replace(lab.settings(lab.url(broker)), signing=HMAC)
    keys = {"STEM_SIGNING_KEYS": str(HMAC.keys), "STEM_SIGNING_ACTIVE_KEY": str(HMAC.active_key)}
    with lab.processes() as start:
        for settings, environment in ((plain, {}), (signed, keys)):

            def begin(*arguments: str, environment: dict[str, str] = environment, **more: str) -> object:
                return start(*arguments, **environment, **more)

            begun = [stem_worker(begin, settings, f"w{number}", "-c", "1") for number in range(FLEET)]
            for process in begun:
                process.wait_for("ready:")
        with ControlClient(plain) as without, ControlClient(signed) as with_keys:

            def ping(client: ControlClient) -> None:
                report = client.ping()
                assert report.complete and len(report.replies) == FLEET, report

            for client in (without, with_keys) * 3:
                ping(client)
            samples: dict[str, list[float]] = {"plain": [], "signed": []}
            for _ in range(8 * lab.rounds):
                samples["plain"].append(milliseconds(lambda: ping(without)))
                samples["signed"].append(milliseconds(lambda: ping(with_keys)))
    figures = {name: Figure(f"{broker}: {name} ping, {FLEET} workers", taken, "ms") for name, taken in samples.items()}
    found.add(*figures.values())
    found.add(ratio(f"{broker}: signed ping against plain", figures["signed"], figures["plain"], "1.3 at most"))
    found.add(Figure(f"{broker}: p95 of a signed ping", [statistics.quantiles(samples["signed"], n=20)[-1]], "ms"))
