"""``stem health``: can everything be reached, and how quickly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.errors import ConfigurationError, StemError
from stem_kombu.redaction import mask_url
from stem_kombu.settings import Settings
from stem_kombu_cli import exit_codes
from stem_kombu_cli.directing import forgotten_pauses, stored_directives
from stem_kombu_cli.options import announce_places, output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, note, print_json, span, table, use_color

if TYPE_CHECKING:
    from stem_kombu.drivers.certificate import Certificate
    from stem_kombu.drivers.routes import Route
    from stem_kombu.settings import TlsSettings

_LEFT_OUT = "left out on request"
#: Records of the store that are read, and those set aside that are named.
_PAGE, _NAMED, _SHOWN = 1000, 20, 3


@dataclass(frozen=True)
class Check:
    """One component's verdict: ``ok``, ``error`` or ``skipped``; ``latency`` in seconds; ``warnings`` are sentences about what
    can be reached and still is not well; ``more`` are fields of its own."""

    component: str
    status: str
    message: str
    latency: float | None = None
    hint: str | None = None
    is_configuration: bool = False
    warnings: tuple[str, ...] = ()
    more: dict[str, object] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        return {
            "component": self.component,
            "status": self.status,
            "message": self.message,
            "latency_s": None if self.latency is None else round(self.latency, 6),
            "hint": self.hint,
            **({"level": "warn", "warnings": list(self.warnings)} if self.warnings else {}),
            **self.more,
        }


@click.command(epilog="Example:  stem health --broker redis://localhost:6379/0 --json")
@click.option("--skip-backend", is_flag=True, help="Leave the result backend out.")
@click.option("--allow-insecure", is_flag=True, help="Don't verify TLS certificates.")
@click.option("--print-ddl", is_flag=True, help="Print the tables that Stem needs on PostgreSQL, and end.")
@place_options
@output_options
@click.pass_context
def health(ctx: click.Context, /, skip_backend: bool, allow_insecure: bool, print_ddl: bool, **values: object) -> None:
    """Write a marker to broker, backend and revoke store, and remove it; check TLS files and signing settings.

    Exit code 0 when all is well, 74 when a place can't be reached or takes no writes, 2 when the configuration itself is wrong.
    """
    if print_ddl:
        _print_ddl()
        return
    as_json = wants_json(values)
    settings = places_of(values).settings(announce=False, allow_insecure=True if allow_insecure else None)
    announce_places(settings)
    checks = _all_at_once(
        {
            "broker": partial(_broker, settings),
            "backend": partial(Check, "backend", "skipped", "left out on request")
            if skip_backend
            else partial(_backend, settings),
            "revoke_store": partial(_store, settings),
            "control": partial(_control, settings),
            "signing": partial(_signing, settings),
            "tls": partial(_tls, settings, without="backend" if skip_backend else None),
        }
    )
    failed = [check for check in checks if check.status == "error"]
    if as_json:
        status = "error" if failed else "ok"
        print_json({"schema": "stem.health/1", "status": status, "checks": [check.to_dict() for check in checks]})
    else:
        rows = [(c.component, c.status, span(c.latency) if c.latency is not None else None, c.message) for c in checks]
        color = use_color(ctx.obj.color)
        emit(table(("COMPONENT", "STATUS", "LATENCY", "MESSAGE"), rows, color=color), color=color)
    for check in checks:
        for warning in check.warnings:
            note(f"warning: {check.component}: {warning}")
        if check.hint:
            note(f"hint: {check.component}: {check.hint}")
    if any(check.is_configuration for check in failed):
        ctx.exit(exit_codes.USAGE)
    ctx.exit(exit_codes.UNREACHABLE if failed else exit_codes.OK)


def _all_at_once(questions: dict[str, Callable[[], Check]]) -> list[Check]:
    """The verdicts in the order of the questions. Where several servers hang, the answer takes as long as one of them."""
    found: dict[str, Check] = {}
    crashed: list[BaseException] = []

    def ask(component: str) -> None:
        try:
            found[component] = _tried(component, questions[component])
        except Exception as error:  # noqa: BLE001 - raised again below, where the program explains it
            crashed.append(error)

    # Daemons, so that Ctrl-C need not wait for a server that hangs.
    threads = [threading.Thread(target=ask, args=(component,), daemon=True) for component in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if crashed:
        raise crashed[0]
    return [found[component] for component in questions]


def _print_ddl() -> None:
    from stem_kombu.backends.failed_postgres import SCHEMA as FAILED
    from stem_kombu.backends.postgres_statements import SCHEMA as BACKEND
    from stem_kombu.stores.postgres import SCHEMA as STORE
    from stem_kombu.transports.store.postgres import SCHEMA as CONTROL

    for what, schema in (
        ("control through the store (STEM_CONTROL_LINK)", CONTROL),
        ("revoke store (STEM_REVOKE_STORE_URL)", STORE),
        ("backend (STEM_RESULT_BACKEND_URL)", BACKEND),
        ("messages of failed tasks in the backend (STEM_KEEP_FAILED)", FAILED),
    ):
        emit(f"-- {what}")
        for statement in schema.script():
            emit(f"{statement};")


def _tried(component: str, check: Callable[[], Check]) -> Check:
    began = SYSTEM.monotonic()
    try:
        verdict = check()
    except StemError as error:
        return Check(
            component,
            "error",
            str(error),
            SYSTEM.monotonic() - began,
            error.hint,
            is_configuration=isinstance(error, ConfigurationError),
        )
    return verdict if verdict.status == "skipped" else replace(verdict, latency=SYSTEM.monotonic() - began)


def _broker(settings: Settings) -> Check:
    from stem_kombu.transports.confirms import told_of_confirms
    from stem_kombu.transports.connections import broker_connection
    from stem_kombu.transports.registry import open_transport

    transport = open_transport(broker_connection(settings), generic=settings.transport == "generic")
    warnings = transport.check(partial(_queues, settings))
    message, leases = f"{mask_url(settings.broker.value)} ({transport.name})", transport.leases()
    if leases is not None:
        if not transport.capabilities.carries_control:  # where Kombu has no leases, and Stem keeps them
            message += f"; what a killed worker held is redelivered once its lease of {span(leases.lifetime)} is over"
        leases.close()
    message += told_of_confirms(settings, transport)
    return Check("broker", "ok", message, warnings=tuple(warnings))


def _queues(settings: Settings) -> list[str]:
    """The queues that these settings and the workers on the roster consume."""
    from stem_kombu.backends.registry import open_roster

    own = settings.worker_queues or (settings.default_queue,)
    place = settings.roster
    try:
        roster = open_roster(place.value, name=place.name, tls=settings.tls, patience=timeouts.CLI_HEALTH_ROSTER)
        try:
            view = roster.view(settings.namespace)
        finally:
            roster.close()
    except StemError:
        return list(own)  # which is told of the backend, or of the revoke store
    return list(dict.fromkeys([*own, *(queue for beat in view.heartbeats for queue in beat.queues)]))


def _backend(settings: Settings) -> Check:
    from stem_kombu.backends.registry import open_backend

    source = settings.backend
    if source is None:
        return Check("backend", "skipped", "none is configured (STEM_RESULT_BACKEND_URL)")
    backend = open_backend(source.value, name=source.name, tls=settings.tls)
    try:
        warnings = backend.check(settings.namespace)
        aside = backend.view(settings.namespace).set_aside
    finally:
        backend.close()
    more = ", …" if len(aside) > _SHOWN else ""
    if aside:
        warnings.append(f"{len(aside)} heartbeats can't be read and are set aside: {', '.join(aside[:_SHOWN])}{more}")
    return Check("backend", "ok", backend.url, warnings=tuple(warnings))


def _store(settings: Settings) -> Check:
    from stem_kombu.stores.registry import open_revoke_store

    source = settings.revoke_store
    store = open_revoke_store(source.value, name=source.name, tls=settings.tls)
    try:
        # What is written here a worker reads as long as the store lasts: so it must take writes, and keep them.
        warnings = store.check(settings.namespace)
        # What is reached must be readable as well: a worker does not start on a store that it can't read.
        problems = store.problems(settings.namespace)
        for _ in islice(store.since(settings.namespace, 0), _PAGE):
            pass
        aside = store.quarantine.of(settings.namespace)
        forgotten = forgotten_pauses(stored_directives(store, settings.namespace), store.now())
    finally:
        store.close()
    warnings += [*problems, *forgotten]
    if aside:
        places = ", ".join(one.place for one in aside[:_SHOWN]) + (", …" if len(aside) > _SHOWN else "")
        warnings.append(f"{len(aside)} records can't be read and are set aside: {places} (see: stem store check)")
    named = [{"place": one.place, "task_id": one.task_id, "reason": one.reason} for one in aside[:_NAMED]]
    return Check(
        "revoke_store",
        "ok",
        f"{store.url} (from {source.name})",
        warnings=tuple(warnings),
        more={"set_aside_count": len(aside), "set_aside": named, **({} if settings.durable else {"durable": False})},
    )


def _control(settings: Settings) -> Check:
    from stem_kombu.transports.store.health import checked_control

    by = {"broker": "through the broker", "store": f"through the revoke store (from {settings.revoke_store.name})"}
    return Check("control", "ok", by[checked_control(settings)])


def _signing(settings: Settings) -> Check:
    from stem_kombu.signing.configuration import open_keyring, task_signing
    from stem_kombu.signing.selftest import self_test

    keyring = open_keyring(settings.signing)
    if keyring is None:
        return Check("signing", "skipped", "not configured: control messages are not signed")
    signing, known = self_test(keyring), keyring.keys
    return Check(
        "signing",
        "ok",
        f"signs with {keyring.active.id} ({keyring.active.algorithm}), verifies {', '.join(known)}; "
        f"self-test passed with {', '.join(signing)}; tasks: {task_signing(settings.signing)}",
    )


def _tls(settings: Settings, *, without: str | None) -> Check:
    """A handshake of its own with each encrypted route; what the others say of theirs is not repeated here."""
    from stem_kombu.drivers.routes import routes
    from stem_kombu.drivers.tls import SOON, checked_tls, client_certificate

    tls = checked_tls(settings.tls)
    encrypted = [route for route in routes(settings) if route.encrypted and route.component != without]
    if not tls and not encrypted:
        return Check("tls", "skipped", "not configured (STEM_TLS_…)", more=_seen([], None))
    # One place may have several parts, and is asked once.
    shaken = {
        route.source.value: _shaken(route, tls) for route in {one.source.value: one for one in encrypted}.values()
    }
    found = [
        {
            "component": route.component,
            "endpoint": None if route.endpoint is None else str(route.endpoint),
            "verified": route.verified,
            "name_checked": route.name_checked,
            **shaken[route.source.value],
        }
        for route in encrypted
    ]
    own = client_certificate(tls)
    said = ["files can be loaded"] if tls else []
    if tls.allow_insecure:
        said = ["files can be loaded, but verification is switched off (STEM_TLS_ALLOW_INSECURE)"]
    said += dict.fromkeys(_in_words(one) for one in found)
    ends = [(f"{one['subject']} of {one['endpoint']}", one["days_left"]) for one in found if "days_left" in one]
    client = None
    if own is not None:
        client = {"path": tls.client_cert, **_dated(own)}
        said.append(f"client certificate {own.subject}, {client['days_left']} days left")
        ends.append((f"the client certificate {own.subject}", client["days_left"]))
    soon = [f"{name} in {days} days" for name, days in dict(ends).items() if 0 <= days < SOON]
    hint = f"expires soon: {'; '.join(soon)}" if soon else None
    failed = [one for one in found if "error" in one]
    if failed:
        hint = failed[0]["hint"]
    return Check("tls", "error" if failed else "ok", "; ".join(said), hint=hint, more=_seen(found, client))


def _seen(found: list[dict[str, object]], client: dict[str, object] | None) -> dict[str, object]:
    return {"endpoints": found, "client_certificate": client}


def _shaken(route: Route, tls: TlsSettings) -> dict[str, Any]:
    """How a handshake with its endpoint went; nothing for several servers, of which the driver picks one."""
    from stem_kombu.drivers.diagnosis import Diagnosis
    from stem_kombu.drivers.handshake import explained, shake_hands
    from stem_kombu.drivers.tls import tls_for

    endpoint, asked = route.endpoint, tls_for(route.source.value, tls)
    if endpoint is None:
        return {}
    try:
        shaken = shake_hands(
            endpoint, asked, verify=route.verified, check_name=route.name_checked, alert_wait=timeouts.CLI_HEALTH_ALERT
        )
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        found = explained(text, endpoint, asked) or Diagnosis(f"{endpoint}: {text}", "check host and port")
        return {"error": found.what, "hint": found.hint}
    return {"protocol": shaken.protocol, "cipher": shaken.cipher, **_dated(shaken.certificate)}


def _dated(certificate: Certificate) -> dict[str, object]:
    from stem_kombu.clock import isoformat

    return {
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "expires_at": isoformat(certificate.not_after),
        "days_left": certificate.days_left(SYSTEM.utcnow()),
    }


def _in_words(seen: dict[str, object]) -> str:
    if "error" in seen:
        return str(seen["error"])
    if seen["endpoint"] is None:
        return "one of several servers"
    doubt = "" if seen["verified"] and seen["name_checked"] else ", not verified"
    return f"{seen['endpoint']} {seen['protocol']} {seen['subject']}, {seen['days_left']} days left{doubt}"
