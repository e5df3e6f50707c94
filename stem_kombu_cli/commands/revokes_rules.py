"""``stem revokes rules``."""

from __future__ import annotations

import json

import click

from stem_kombu.clock import isoformat
from stem_kombu.control.client.selecting import SelectorClient
from stem_kombu_cli import exit_codes
from stem_kombu_cli.options import output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, note, print_json, table, use_color


@click.command("rules", epilog="Example:  stem revokes rules --json")
@place_options
@output_options
@click.pass_context
def list_rules(ctx: click.Context, /, **values: object) -> None:
    """List the rules that `stem worker revoke --name …` has stored and that are in force, the oldest first.

    RULE is what `stem revokes undo --rule` takes. Exit code 4: there is none.
    """
    as_json = wants_json(values)
    settings = places_of(values).settings()
    with SelectorClient(settings) as client:
        rules = client.live_rules()
    if as_json:
        records = [rule.to_record() for rule in rules]
        print_json({"schema": "stem.rules/1", "namespace": settings.namespace, "rules": records})
    elif rules:
        rows = [
            (
                rule.key,
                rule.version,
                json.dumps(rule.selector.to_record()),
                isoformat(rule.enqueued_before),
                isoformat(rule.expires_at),
                rule.terminate,
                rule.requested_by,
                rule.reason,
            )
            for rule in rules
        ]
        color = use_color(ctx.obj.color)
        headers = ("RULE", "VERSION", "SELECTOR", "SENT BEFORE", "EXPIRES", "TERMINATE", "BY", "REASON")
        emit(table(headers, rows, color=color, shrink=2), color=color)
    if not rules:
        note(f"no rule is in force in namespace {settings.namespace!r}")
    ctx.exit(exit_codes.OK if rules else exit_codes.NOTHING_MATCHED)
