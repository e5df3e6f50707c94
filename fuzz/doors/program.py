"""The arguments of the command line: parsed by the real commands, which are not carried out."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import click

from fuzz.oracle import Refused, asked
from stem_kombu.errors import ConfigurationError
from stem_kombu_cli.commands.task_send import _decoded
from stem_kombu_cli.commands.worker_revoke import task_ids
from stem_kombu_cli.main import cli
from stem_kombu_cli.render import plain, shown, table

_ENDS = (click.ClickException, click.exceptions.Exit, click.Abort, ConfigurationError)


def arguments(data: bytes) -> None:
    """Arguments, separated by line feeds; what stands after an empty one is standard input."""
    before, _, standard_input = data.partition(b"\n\n")
    # As Python gives them: bytes that are no UTF-8 come as surrogates. None can hold NUL.
    given = before.replace(b"\0", b"").decode("utf-8", "surrogateescape").split("\n")
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            _parsed(cli, given, standard_input)
        finally:
            plain(out.getvalue() + err.getvalue()).encode()


def _parsed(
    command: click.Command, given: list[str], standard_input: bytes, parent: click.Context | None = None
) -> None:
    try:
        context = asked(_ENDS, command.make_context, command.name or "stem", list(given), parent=parent)
    except Refused as refused:
        if isinstance(refused.__cause__, click.ClickException):
            plain(refused.__cause__.format_message()).encode()
        raise
    with context:
        if isinstance(command, click.Group):
            left = [*context._protected_args, *context.args]
            if not left:
                raise Refused  # "Missing command", as Click says when it invokes
            name, inner, rest = asked(_ENDS, command.resolve_command, context, left)
            if inner is None or name is None:
                raise Refused
            _parsed(inner, rest, standard_input, context)
            return
        values = context.params
        for option, kind in (("args", list), ("kwargs", dict)):
            if isinstance(values.get(option), str):
                asked(_ENDS, _decoded, context, f"--{option}", values[option], kind)
        if "tasks" in values:
            asked(_ENDS, task_ids, values["tasks"], io.BytesIO(standard_input))
        table(("NAME", "VALUE"), [(name, shown(value)) for name, value in values.items()]).encode(
            "utf-8", "backslashreplace"
        )


def arguments_seeds() -> Iterator[bytes]:
    for one in (
        "--help", "--version", "worker\nping\n--timeout\n2s\n--json", "worker\nrevoke\n-t\na\n--terminate\n--reason\nwhy",
        "worker\nrevoke\n--task\n-\n--expires-in\n7d\n\nid-1\nid-2\n", "worker\ninspect\n--revoked\n--limit\n20\n-w\nw*",
        "worker\nstats\n-o\njson", "worker\nstatus\n--follow\n-n\nshop", "worker\ncall\nreload\n--args\n{}",
        "worker\nstart\n-A\nshop:app\n--concurrency\n4\n--queues\na,b", "task\nsend\nx\n--args\n[1]\n--kwargs\n{\"a\":1}",
        "task\nsend\nx\n--countdown\n0\n--id\nabc", "task\nshow\nabc\n--backend\nredis://h", "health\n--json", "--debug\ndemo",
        "--color\nnever\nworker", "wroker\nping",
    ):  # fmt: skip
        yield one.encode()
