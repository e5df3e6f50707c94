"""``stem top``: the fleet, live."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import click

from stem_kombu_cli import exit_codes
from stem_kombu_cli.failure import Failure
from stem_kombu_cli.options import DURATION, place_options, places_of, timeout_option
from stem_kombu_cli.render import emit
from stem_kombu_cli.top.fleet import Fleet
from stem_kombu_cli.top.model import COLUMNS, Order, Snapshot, Tab, fitting, head, line, rows_of

_INSTEAD = "`stem worker status --watch` and `stem worker inspect --watch` need no more than what is installed"


@click.command(epilog="Example:  stem top --read-only --interval 5s")
@click.option(
    "--interval", type=DURATION, default="2s", show_default=True, help="Time between two questions to the fleet."
)
@click.option("--read-only", is_flag=True, help="Keys that change something are off.")
@click.option(
    "--record", type=click.Path(dir_okay=False, path_type=Path), help="Append each answer to this file, as JSON."
)
@click.option("--once", is_flag=True, help="Print the fleet once as text; needs no terminal and no Textual.")
@place_options
@timeout_option
@click.pass_context
def top(
    ctx: click.Context, /, interval: float, read_only: bool, record: Path | None, once: bool, **values: object
) -> None:
    """Watch workers, running tasks, queues and directives, and act on them.

    Capital keys change something: R revokes, K revokes by signals, P pauses, U resumes, C scales, S shuts down, D ends a
    directive. Each shows what will happen, and Enter cancels. ? explains the keys.
    """
    settings = places_of(values).settings()
    with ExitStack() as stack:
        fleet = stack.enter_context(closing(Fleet(settings)))
        keep = None if record is None else _recorder(stack, record)
        if once:
            found = fleet.look()
            if keep is not None:
                keep(found)
            emit(text(found, shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 10_000))
            ctx.exit(found.code)
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise Failure("stem top needs a terminal", exit_codes.USAGE, hint=f"add --once; {_INSTEAD}")
        try:
            from stem_kombu_cli.top.screen import TopScreen
        except ImportError as error:
            hint = f"pip install 'stem-kombu[top]'; {_INSTEAD}"
            raise Failure("stem top needs Textual, which is not installed here", exit_codes.USAGE, hint=hint) from error
        TopScreen(fleet, None if read_only else fleet, interval=interval, record=keep).run()


def _recorder(stack: ExitStack, path: Path) -> Callable[[Snapshot], None]:
    try:
        file = stack.enter_context(path.open("a", encoding="utf-8"))
    except OSError as error:
        raise Failure(f"--record: {path} can't be written: {error.strerror}", exit_codes.USAGE) from error

    def record(snapshot: Snapshot) -> None:
        file.write(json.dumps(snapshot.to_dict(), default=str) + "\n")
        file.flush()

    return record


def text(found: Snapshot, width: int) -> str:
    """All tabs, one below the other."""
    parts = [f"namespace {found.namespace}  broker {found.broker}  {found.taken_at}"]
    for tab in Tab:
        rows = rows_of(found, tab, Order())
        columns = fitting(tab, width) if width < 10_000 else list(COLUMNS[tab])
        lines = [line(columns, row).rstrip() for row in rows]
        parts.append(
            "\n".join(
                [f"{tab.value} {len(rows)}", *([head(columns, Order(column=0), tab).rstrip(), *lines] if rows else [])]
            )
        )
    parts += [f"note: {note}" for note in found.notes]
    return "\n\n".join(parts)
