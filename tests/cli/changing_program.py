"""``stem change [--count N]``: the real program with one more command, which prints what it was told after it has asked."""

from __future__ import annotations

import sys
from typing import Any

import click

from stem_kombu_cli.changing import change_of, changing_options, confirm, reason_of
from stem_kombu_cli.main import cli, main
from stem_kombu_cli.options import output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import print_json


@click.command()
@click.option("--count", type=int, default=0)
@changing_options
@place_options
@output_options
def change(count: int, **values: Any) -> None:
    asked = change_of(values, as_json=wants_json(values))
    settings = places_of(values).settings(announce=False)
    reason = reason_of(asked, settings)
    confirm(asked, "this pauses queue mail on every worker", count=count)
    print_json({"reason": reason, "requester": asked.requester, "dry_run": asked.dry_run, "wait": asked.wait})


if __name__ == "__main__":
    cli._lazy["change"] = (f"{__name__}:change", "For the tests.")  # type: ignore[attr-defined]
    main(sys.argv[1:])
