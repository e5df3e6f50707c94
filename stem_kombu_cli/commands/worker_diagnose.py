"""``stem worker diagnose``: what a worker on this host would meet, and how those that run here stand."""

from __future__ import annotations

import difflib
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, monotonic
from stem_kombu.environment import environment
from stem_kombu.errors import StemError
from stem_kombu.health_page import SUFFIX, Page, folders, health_of
from stem_kombu.settings import Settings
from stem_kombu.state_folder import state_folder
from stem_kombu.variables import Variables
from stem_kombu_cli import exit_codes
from stem_kombu_cli.options import output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, note, print_json, table, use_color

#: Bytes that a folder for files should have left, and descriptors that a worker should be allowed.
_LEAST_FREE, _LEAST_DESCRIPTORS = 100_000_000, 1024
#: Variables that no setting is read from, but parts of Stem.
_ELSEWHERE = frozenset(
    {
        "STEM_REQUIRE_STORE",
        "STEM_CHILD_OF",
        "STEM_COMPLETION_TIMEOUT",
        "STEM_METRIC_EXPORTERS",
        "STEM_OTLP_ENDPOINT",
        "STEM_OTLP_INTERVAL",
    }
)


@dataclass(frozen=True)
class Finding:
    """``level`` is ``ok``, ``warn``, ``error`` or ``skipped``."""

    check: str
    level: str
    message: str
    hint: str | None = None


@click.command(epilog="Example:  stem worker diagnose --json")
@place_options
@output_options
@click.pass_context
def diagnose(ctx: click.Context, /, **values: object) -> None:
    """Check this host: variables, folders, limits, the workers that run here, clocks, and the state of broker and stores.

    Exit code 0, or 1 when a check found an error; warnings don't count. `stem health` checks whether each server can be reached,
    and how fast.
    """
    as_json = wants_json(values)
    found = list(_variables())
    try:
        settings = places_of(values).settings(announce=False)
    except StemError as error:
        found.append(Finding("settings", "error", str(error), error.hint))
    else:
        for check in (_state_folder, _descriptors, _workers, _broker, _backend, _store):
            found += check(settings)
    failed = any(one.level == "error" for one in found)
    if as_json:
        status = "error" if failed else "ok"
        print_json({"schema": "stem.diagnose/1", "status": status, "checks": [asdict(one) for one in found]})
    else:
        rows = [(one.check, one.level, one.message) for one in found]
        emit(table(("CHECK", "LEVEL", "MESSAGE"), rows, color=use_color(ctx.obj.color)))
        for one in found:
            if one.hint:
                note(f"hint: {one.check}: {one.hint}")
    ctx.exit(exit_codes.NO if failed else exit_codes.OK)


class _Asked(dict[str, str]):
    """An environment without variables that remembers which were looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, name: str, default: object = None) -> Any:
        self.names.add(name)
        return default


def known_variables() -> frozenset[str]:
    """The variables that mean something to Stem."""
    asked = _Asked()
    Settings.from_env(asked)
    return frozenset(name for name in asked.names if name.startswith("STEM_")) | _ELSEWHERE


def _variables() -> Iterator[Finding]:
    known = known_variables()
    given = sorted(name for name in environment() if name.startswith("STEM_"))
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else "remove it"
            yield Finding("variables", "warn", f"{name} is not a variable of Stem", hint)
    if all(name in known for name in given):
        yield Finding("variables", "ok", f"set: {', '.join(given) or 'none'}")


def _state_folder(settings: Settings) -> Iterator[Finding]:
    folder = state_folder(Variables(environment()))
    there = next(one for one in (folder, *folder.parents) if one.exists())
    level = "error" if settings.embedded else "warn"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding(
            "state folder", level, f"{folder}: this user can't write {there}", "set XDG_STATE_HOME, or its rights"
        )
        return
    free = shutil.disk_usage(there).free
    if free < _LEAST_FREE:
        yield Finding("state folder", level, f"{folder}: {free / 1e6:.0f} MB are left on its disk", "make room")
        return
    yield Finding("state folder", "ok", f"{folder}: can be written, {free / 1e9:.1f} GB left")


def _descriptors(_: Settings) -> Iterator[Finding]:
    limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_DESCRIPTORS:
        hint = "raise it: ulimit -n, LimitNOFILE= of the service"
        yield Finding(
            "descriptors", "warn", f"a process may open {limit:,} files; many children and queues need more", hint
        )
    else:
        yield Finding("descriptors", "ok", f"a process may open {'any number of' if limit < 0 else f'{limit:,}'} files")


def _workers(settings: Settings) -> Iterator[Finding]:
    """The health files of this host."""
    places = [Path(folder) for folder in folders(environment(), settings.namespace)]
    given = settings.health_file
    paths = [path for folder in places if folder.is_dir() for path in sorted(folder.glob(f"*{SUFFIX}"))]
    paths += [Path(given)] if given not in (None, "off") and Path(given or "").exists() else []
    for path in paths:
        try:
            health = health_of(Page.at(str(path)), monotonic())
        except (OSError, ValueError) as error:
            yield Finding("worker", "warn", f"health file {path}: {error}", "remove it, or let this user read it")
            continue
        level = "ok" if health.ready else "warn" if health.live or health.state == "gone" else "error"
        hint = "stem worker healthcheck shows its threads" if health.state == "stuck" else None
        yield Finding("worker", level, f"{health.worker}: {health.state}: {health.message}", hint)
    if not paths:
        yield Finding("worker", "skipped", f"no worker of namespace {settings.namespace} has a health file here")


def _said(check: str, what: str, ask: Callable[[], list[str]]) -> Iterator[Finding]:
    try:
        sentences = ask()
    except StemError as error:
        yield Finding(check, "error", str(error), error.hint)
        return
    for sentence in sentences:
        yield Finding(check, "warn", sentence)
    if not sentences:
        yield Finding(check, "ok", what)


def _broker(settings: Settings) -> Iterator[Finding]:
    from stem_kombu.transports.confirms import told_of_confirms
    from stem_kombu.transports.connections import broker_connection
    from stem_kombu.transports.registry import open_transport

    own = settings.worker_queues or (settings.default_queue,)
    transport = open_transport(broker_connection(settings), generic=settings.transport == "generic")
    told = f"{transport.url} takes messages{told_of_confirms(settings, transport)}"
    yield from _said("broker", told, lambda: transport.check(lambda: own))
    if transport.capabilities.consumer_timeout is not None:
        yield Finding(
            "consumer_timeout",
            "skipped",
            "no client can read RabbitMQ's consumer_timeout: it is 30 minutes, unless it is set",
            "a task that holds its message longer is redelivered: raise it above your longest task and eta",
        )


def _backend(settings: Settings) -> Iterator[Finding]:
    from stem_kombu.backends.registry import open_backend

    source = settings.backend
    if source is None:
        yield Finding("backend", "skipped", "none is configured (STEM_RESULT_BACKEND_URL)")
        return
    try:
        backend = open_backend(source.value, name=source.name, tls=settings.tls)
    except StemError as error:
        yield Finding("backend", "error", str(error), error.hint)
        return
    try:
        yield from _said("backend", f"{backend.url} takes writes", partial(backend.check, settings.namespace))
    finally:
        backend.close()


def _store(settings: Settings) -> Iterator[Finding]:
    from stem_kombu.stores.registry import open_revoke_store

    source = settings.revoke_store
    try:
        store = open_revoke_store(source.value, name=source.name, tls=settings.tls)
    except StemError as error:
        yield Finding("revoke store", "error", str(error), error.hint)
        return
    try:
        found = list(_said("revoke store", f"{store.url} takes writes", partial(store.check, settings.namespace)))
        yield from found
        if found[0].level != "error":
            ahead = (store.now() - SYSTEM.utcnow()).total_seconds()
            level = "ok" if abs(ahead) <= timeouts.CLI_CLOCK_SKEW else "warn"
            hint = (
                None if level == "ok" else "synchronise both (NTP): revocations and directives end by the store's clock"
            )
            yield Finding(
                "clock",
                level,
                f"the revoke store's is {abs(ahead):.1f} s {'behind' if ahead < 0 else 'ahead of'} this host's",
                hint,
            )
    except StemError as error:
        yield Finding("clock", "error", str(error), error.hint)
    finally:
        store.close()
