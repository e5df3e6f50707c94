"""``stem worker sweep``."""

from __future__ import annotations

import click

from stem_kombu import timeouts
from stem_kombu.errors import StoreError
from stem_kombu.settings import Settings
from stem_kombu.transports.base import GivenBack
from stem_kombu.transports.connections import broker_connection
from stem_kombu.transports.registry import open_transport
from stem_kombu_cli import exit_codes
from stem_kombu_cli.options import DURATION, output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, note, print_json, span


@click.command(epilog="Example:  stem worker sweep --wait 2m")
@click.option(
    "--wait", type=DURATION, default=None, help="Wait this long for leases that still run (default: don't wait)."
)
@place_options
@output_options
@click.pass_context
def sweep(ctx: click.Context, /, wait: float | None, **values: object) -> None:
    """Give back to the queues what dead workers held.

    Workers do this by themselves. Run it before a fleet leaves Stem: on Redis Celery never receives the messages that the last
    Stem workers held when they were killed. A live worker keeps its messages.

    Exit code 0 when no worker holds messages any more, 3 when one still does: a live worker, or one that died less than a
    lease ago (a minute; --wait waits for that).
    """
    as_json = wants_json(values)
    settings = places_of(values).settings()
    transport = open_transport(broker_connection(settings))
    found = transport.give_back_held(wait or 0.0)
    live = _live(settings) if found.leased else []
    if as_json:
        print_json(_document(found, live, transport.url))
    else:
        emit(_text(found))
    if found.leased:
        note(_of_leased(found, live))
    ctx.exit(exit_codes.PARTIAL if found.leased else exit_codes.OK)


def _document(found: GivenBack, live: list[str] | None, broker: str) -> dict[str, object]:
    return {
        "schema": "stem.sweep/1",
        "broker": broker,
        "transport": found.transport,
        "returned": found.returned,
        "leased": found.leased,
        "lease_s": found.lease,
        "live_workers": live,
        "note": found.note,
    }


def _text(found: GivenBack) -> str:
    if found.note is not None:
        return found.note
    return f"returned: {_messages(found.returned)}; still leased: {_messages(found.leased)}"


def _of_leased(found: GivenBack, live: list[str] | None) -> str:
    assert found.lease is not None
    if live:
        return (
            f"hint: by its heartbeat alive, and so with messages of its own: {', '.join(live)}; stop it and sweep again, or, if"
            f" it was killed just now, add --wait 2m"
        )
    unknown = "" if live is not None else ", or of a worker that lives: the roster can't be read"
    return f"hint: leases of workers that died less than {span(found.lease)} ago still run{unknown}; add --wait 2m"


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"


def _live(settings: Settings) -> list[str] | None:
    """The workers on the roster that are not dead, ``None`` when it can't be read."""
    from stem_kombu.backends.registry import open_roster

    place = settings.roster
    try:
        roster = open_roster(place.value, name=place.name, tls=settings.tls, patience=timeouts.CLI_SWEEP_ROSTER)
        try:
            view = roster.view(settings.namespace)
        finally:
            roster.close()
    except StoreError:
        return None
    return [beat.worker for beat in view.heartbeats if beat.holds_its_id(view.now)]
