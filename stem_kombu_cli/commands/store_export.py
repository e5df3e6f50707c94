"""``stem store export``: every revocation as JSON."""

from __future__ import annotations

import json

import click

from stem_kombu_cli import exit_codes
from stem_kombu_cli.commands.store_check import opened, shown
from stem_kombu_cli.options import output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, note, print_json


@click.command(epilog="Example:  stem store export > revocations.jsonl")
@place_options
@output_options
@click.pass_context
def export(ctx: click.Context, /, **values: object) -> None:
    """Print every revocation of the namespace, expired ones included, with its proofs: a line of JSON each, oldest first.

    With --json it is one document. Exit code 0, 1 when records that can't be read are missing in it, 74 when the store can't be
    reached or read at all.
    """
    as_json = wants_json(values)
    settings = places_of(values).settings()
    with opened(settings) as store:
        records = []
        for record in store.since(settings.namespace, 0):
            if as_json:
                records.append(record.to_message())
            else:
                emit(json.dumps(record.to_message()))
        aside = store.quarantine.of(settings.namespace)
    if as_json:
        document = {"schema": "stem.store/1", "command": "export", "store": store.url, "namespace": settings.namespace}
        print_json({**document, "records": records, "set_aside": [shown(one) for one in aside]})
    for one in aside:
        note(f"left out: {one.place} can't be read: {one.reason}")
    ctx.exit(exit_codes.NO if aside else exit_codes.OK)
