"""``celery -A app stem …``: the whole program as a sub-command of Celery's, for the fleet of that application."""

from __future__ import annotations

import sys

import click


@click.command(
    "stem",
    # Everything, --help included, is for the program inside.
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    short_help="See, stop and steer workers (stem --help).",
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def stem(ctx: click.Context, /, arguments: tuple[str, ...], **_: object) -> None:
    """Run ``stem`` with broker, backend and namespace of the Celery application, unless flags or variables name others."""
    from stem_kombu.celery.configuration import host_of
    from stem_kombu_cli import options
    from stem_kombu_cli.main import run

    app = ctx.obj.app
    options.HOST["host"] = host_of(app)
    for name, value in getattr(app, "stem_options", {}).items():
        if name in ("broker", "backend", "revoke_store", "namespace", "signing"):
            options.GIVEN[name] = value
    if arguments[:1] == ("healthcheck",):  # of this application's workers on this host: there is no other
        arguments = ("worker", *arguments)
    sys.exit(run(list(arguments) or ["--help"]))
