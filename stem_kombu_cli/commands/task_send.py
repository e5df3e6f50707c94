"""``stem task send``."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from stem_kombu.app import Stem
from stem_kombu_cli import completion
from stem_kombu_cli.options import TEXT, Duration, output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, print_json


@click.command(epilog="""Example:  stem task send tasks.render-image --kwargs '{"tiles": 4}' --queue images""")
@click.argument("name", type=TEXT, shell_complete=completion.task_names)
@click.option(
    "--args", "args", metavar="JSON", default="[]", help="Positional arguments, a JSON array; - reads it from stdin."
)
@click.option(
    "--kwargs", "kwargs", metavar="JSON", default="{}", help="Keyword arguments, a JSON object; - reads it from stdin."
)
@click.option(
    "--queue", metavar="Q", help="Queue (default: the namespace's default queue).", shell_complete=completion.queues
)
@click.option("--id", "task_id", type=TEXT, metavar="ID", help="Task id (default: a new UUID).")
@click.option("--countdown", type=Duration(allow_zero=True), help="Start it no sooner than this from now.")
@place_options
@output_options
@click.pass_context
def send(
    ctx: click.Context,
    /,
    name: str,
    args: str,
    kwargs: str,
    queue: str | None,
    task_id: str | None,
    countdown: float | None,
    **values: object,
) -> None:
    """Enqueue a task by name and print its id; the handler need not be installed here."""
    as_json = wants_json(values)
    if args == kwargs == "-":
        raise click.UsageError("only one of --args and --kwargs can be read from stdin", ctx)
    positional = _decoded(ctx, "--args", args, list)
    keywords = _decoded(ctx, "--kwargs", kwargs, dict)
    app = Stem("stem task send", settings=places_of(values).settings())
    try:
        result = app.send_task(name, positional, keywords, queue=queue, task_id=task_id, countdown=countdown)
    finally:
        app.close()
    if as_json:
        print_json(
            {"schema": "stem.task/1", "id": result.id, "name": name, "queue": queue or app.settings.default_queue}
        )
    else:
        emit(result.id)


def _decoded(ctx: click.Context, option: str, text: str, kind: type) -> Any:
    if text == "-":  # for what other users should not read in the list of processes
        text = sys.stdin.read()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{option}: {text[:80]!r} is no JSON: {error}", ctx) from None
    if not isinstance(value, kind):
        raise click.UsageError(f"{option}: {text[:80]!r} is no JSON {'array' if kind is list else 'object'}", ctx)
    return value
