"""The options that broker-backed commands share, and how they become settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stem_kombu_cli import completion, render
from stem_kombu_cli.render import note

if TYPE_CHECKING:
    from stem_kombu.settings import Settings, SigningSettings, TlsSettings

    _Type = click.ParamType[float]
    _Text = click.ParamType[str]
else:
    _Type = _Text = click.ParamType  # generic since Click 8.4 only

F = TypeVar("F", bound=Callable[..., object])


class Duration(_Type):
    """``250ms``, ``5s``, ``1.5m``, ``2h``, ``7d`` or a bare number of seconds, as float seconds."""

    name = "duration"

    def __init__(self, *, allow_zero: bool = False) -> None:
        self._allow_zero = allow_zero

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from stem_kombu.durations import parse_duration

        if isinstance(value, float):
            return value
        name = param.opts[-1] if param is not None else "duration"
        return parse_duration(str(value), name=name, allow_zero=self._allow_zero)


DURATION = Duration()


class Text(_Text):
    """Text that is not blank: ``--requester "$UNSET"`` must not become everyone, nor nothing."""

    name = "text"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text.strip():
            named = (
                "it"
                if param is None
                else param.opts[-1]
                if isinstance(param, click.Option)
                else param.human_readable_name
            )
            hint = "" if param is not None and param.required else "leave it out, or "
            raise click.UsageError(f"{named} is blank; {hint}give it a value", ctx)
        return text


TEXT = Text()

_PLACES = ("broker", "backend", "revoke_store", "namespace")

#: ``host=`` of :meth:`Settings.from_env`, when a host program (``celery -A app stem``) runs this one.
HOST: dict[str, Any] = {}
#: What the application of a host program was given in its own code: asked after flags, before variables.
GIVEN: dict[str, Any] = {}


@dataclass(frozen=True)
class Places:
    """Where things are, as the flags say it; ``None`` leaves it to the environment."""

    broker: str | None = None
    broker_option: tuple[str, ...] = ()
    backend: str | None = None
    revoke_store: str | None = None
    namespace: str | None = None
    timeout: float | None = None
    tls: TlsSettings | None = None
    signing: SigningSettings | None = None

    def settings(self, *, announce: bool = True, **more: Any) -> Settings:
        """The resolved settings. Writes to stderr when no URL was given and the embedded default is used."""
        from stem_kombu.settings import Settings

        settings = Settings.from_env(
            broker=_first(self.broker, "broker"),
            broker_option=self.broker_option,
            broker_options=GIVEN.get("broker_options"),
            backend=_first(self.backend, "backend"),
            revoke_store=_first(self.revoke_store, "revoke_store"),
            namespace=_first(self.namespace, "namespace"),
            timeout=self.timeout,
            tls=self.tls,
            signing=self.signing or GIVEN.get("signing"),
            **HOST,
            **more,
        )
        if announce:
            announce_places(settings)
            check_tls(settings)
        return settings


def _first(flag: str | None, name: str) -> str | None:
    """The flag wherever it was given: one that is blank (``-n "$UNSET"``) must be refused, not taken for none."""
    given: str | None = GIVEN.get(name)
    return given if flag is None else flag


def announce_places(settings: Settings) -> None:
    """Tell on stderr what a user may not expect of the places that were resolved."""
    if settings.embedded:
        from stem_kombu.urls import sqlite_path

        folder = sqlite_path(settings.broker.value).parent
        note(f"note: no broker is named (STEM_BROKER_URL); using the embedded one in {folder}")
    for source in dict.fromkeys((settings.broker, settings.backend, settings.revoke_store)):
        if source is not None and source.value.startswith("memory:"):
            note(f"warning: {source.name} is {source.value}, which no other process can see")
    if not settings.durable:
        from stem_kombu.volatile import HOW_DURABLE, NOT_DURABLE

        note(f"warning: {NOT_DURABLE} ({HOW_DURABLE})")
    if settings.embedded and not settings.tls:
        return  # nothing leaves this machine
    from stem_kombu.drivers.routes import cautions

    for caution in cautions(settings):
        note(f"warning: {caution}")


def check_tls(settings: Settings) -> None:
    """Raises :class:`ConfigurationError` for TLS files that can't be used, whether or not a URL asks for TLS."""
    if settings.tls:
        from stem_kombu.drivers.tls import checked_tls

        checked_tls(settings.tls)


def place_options(function: F) -> F:
    """``--broker --backend --revoke-store -n``, and what signs."""
    return _stacked(
        _tls_options(signing_options(function)),
        click.option("--broker", metavar="URL", help="Broker, any Kombu URL.  [env: STEM_BROKER_URL]"),
        click.option(
            "--broker-option",
            metavar="KEY=JSON",
            multiple=True,
            help="Transport option of Kombu; repeat it.  [env: STEM_BROKER_TRANSPORT_OPTIONS, a JSON object]",
        ),
        click.option("--backend", metavar="URL", help="Result backend.  [env: STEM_RESULT_BACKEND_URL]"),
        click.option(
            "--revoke-store",
            metavar="URL",
            help="Revoke store (default: backend, then broker).  [env: STEM_REVOKE_STORE_URL]",
        ),
        click.option(
            "-n", "--namespace", metavar="NS", help="Control namespace (default: stem).  [env: STEM_CONTROL_NAMESPACE]"
        ),
    )


#: TLS: the fields of ``TlsSettings`` that are files.
_TLS = {
    "ca_cert": "The authority's certificate, PEM.",
    "client_cert": "This client's certificate, PEM.",
    "client_key": "Its private key, PEM.",
}


def _tls_options(function: F) -> F:
    """``--tls-…``, by the names of the variables."""
    return _stacked(
        function,
        *(
            click.option(
                f"--tls-{field.replace('_', '-')}",
                f"tls_{field}",
                metavar="FILE",
                help=f"{meaning}  [env: STEM_TLS_{field.upper()}]",
            )
            for field, meaning in _TLS.items()
        ),
        click.option(
            "--tls-allow-insecure",
            "tls_allow_insecure",
            is_flag=True,
            help="Don't verify TLS certificates.  [env: STEM_TLS_ALLOW_INSECURE]",
        ),
    )


def _tls_of(values: dict[str, Any]) -> TlsSettings | None:
    """Take the TLS options out of a command's values; ``None`` when none was given."""
    from stem_kombu.settings import TlsSettings

    given = {field: values.pop(f"tls_{field}", None) for field in _TLS}
    insecure = bool(values.pop("tls_allow_insecure", False))
    return (
        TlsSettings(**given, allow_insecure=insecure)
        if insecure or any(one is not None for one in given.values())
        else None
    )


#: What signs: the fields of ``SigningSettings``, their metavars and meanings.
_SIGNING = {
    "algorithm": ("NAME", "hmac-sha256 (default) or ed25519."),
    "keys": ("ID:BASE64,…", "HMAC secrets; better @FILE, as others see arguments."),
    "active_key": ("ID", "The key to sign with."),
    "public_keys": ("ID:BASE64,…", "ed25519 public keys, or @FILE."),
    "private_keys": ("ID:BASE64,…", "ed25519 private keys; better @FILE."),
    "key_scopes": ("ID:SCOPE,…;…", "What each key may do."),
    "tasks": ("WAY", "Tasks: off (default), sign or require."),
    "tasks_v1": ("WAY", "Task signatures of 0.1.0: send (default), accept or off."),
}


def signing_options(function: F) -> F:
    """``--signing-…``, by the names of the variables."""
    return _stacked(
        function,
        *(
            click.option(
                f"--signing-{field.replace('_', '-')}",
                f"signing_{field}",
                type=TEXT,
                metavar=metavar,
                help=f"{meaning}  [env: STEM_SIGNING_{field.upper()}]",
            )
            for field, (metavar, meaning) in _SIGNING.items()
        ),
    )


def timeout_option(function: F) -> F:
    return _stacked(
        function,
        click.option(
            "--timeout",
            type=DURATION,
            help="One deadline for the whole command (default: 5s).  [env: STEM_CONTROL_TIMEOUT]",
        ),
    )


def worker_option(function: F) -> F:
    return _stacked(
        function,
        click.option(
            "-w",
            "--worker",
            "workers",
            metavar="ID",
            multiple=True,
            help="Only this worker; repeat it, or use a glob.",
            shell_complete=completion.workers,
        ),
    )


def output_options(function: F) -> F:
    """``--json`` and ``-o``; ``wide`` is text with every column, nothing shortened."""
    forms = ["text", "wide", "json"]
    return _stacked(
        function,
        click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; the same as -o json."),
        click.option("-o", "output", type=click.Choice(forms), default="text", show_default=True, help="Output."),
    )


def control_options(function: F) -> F:
    """All that the control commands share."""
    return place_options(worker_option(timeout_option(output_options(function))))


def places_of(values: dict[str, Any]) -> Places:
    """Take the place options out of a command's values."""
    given = {name: values.pop(name, None) for name in (*_PLACES, "timeout")}
    option = values.pop("broker_option", ())
    return Places(**given, broker_option=option, tls=_tls_of(values), signing=signing_of(values))


def signing_of(values: dict[str, Any]) -> SigningSettings | None:
    """Take the signing options out of a command's values; ``None`` when none was given."""
    from stem_kombu.settings import SigningSettings

    given = {field: values.pop(f"signing_{field}", None) for field in _SIGNING}
    for field in ("keys", "private_keys"):
        if (value := given[field]) and not value.startswith("@"):
            note(
                f"warning: --signing-{field.replace('_', '-')} has secrets in it, which every user of this machine can read in"
                f" the list of processes: set STEM_SIGNING_{field.upper()} instead, or write @FILE"
            )
    return SigningSettings(**given) if any(value is not None for value in given.values()) else None


def wants_json(values: dict[str, object]) -> bool:
    """Take the output options out of a command's values."""
    as_json, output = values.pop("as_json", False), values.pop("output", "text")
    render.wide = output == "wide"
    return bool(as_json or output == "json")


def targets_of(values: dict[str, Any]) -> list[str] | None:
    """Take the workers out of a command's values; ``None`` for everyone.

    Raises ``click.UsageError`` for a blank one: ``-w "$UNSET"`` must not become everyone.
    """
    workers = list(values.pop("workers", ()))
    if not all(worker.strip() for worker in workers):
        raise click.UsageError("--worker is blank; leave it out to mean every worker", click.get_current_context(True))
    return workers or None


def _stacked(function: F, *options: Callable[[F], F]) -> F:
    for option in reversed(options):
        function = option(function)
    return function
