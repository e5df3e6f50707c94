"""``stem worker healthcheck``: the probe, with the options of ``stem``."""

from __future__ import annotations

from typing import Any

import click

from stem_kombu_cli import completion
from stem_kombu_cli.options import TEXT, output_options, wants_json
from stem_kombu_cli.stem_health import Question, answer


@click.command(epilog="Example:  stem worker healthcheck --name worker-a --live")
@click.option(
    "--name",
    type=TEXT,
    metavar="ID",
    help="The worker; not needed where only one has a health file.",
    shell_complete=completion.workers,
)
@click.option("--file", type=TEXT, metavar="PATH", help="Its health file.  [env: STEM_HEALTH_FILE]")
@click.option(
    "--namespace",
    type=TEXT,
    metavar="NS",
    help="Of the worker (default: stem).  [env: STEM_CONTROL_NAMESPACE, STEM_WORKER_NAMESPACE]",
)
@click.option(
    "--live", is_flag=True, help="Whether it should be restarted: is it there, and do its vital threads move?"
)
@click.option("--ready", is_flag=True, help="Whether it consumes what it should; the default.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing but the exit code.")
@output_options
@click.pass_context
def healthcheck(ctx: click.Context, /, name: str | None, **values: Any) -> None:
    """Is a worker of this host alive, and does it consume?

    Reads the file that the worker's own threads stamp: no broker, no application. Exit code 0 yes, 1 no, 4 no such worker.
    As a probe use the program stem-health, which answers the same in a fraction of the time.
    """
    question = Question()
    question.as_json = wants_json(values)
    question.worker, question.quiet = name or "", values["quiet"]
    question.file, question.namespace = values["file"] or "", values["namespace"] or ""
    question.live, question.ready = values["live"], values["ready"]
    ctx.exit(answer(question))
