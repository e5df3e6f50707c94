"""The program: its groups, loaded only when used, and the one place where errors become exit codes."""

from __future__ import annotations

import errno
import io
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

import click

from stem_kombu_cli import exit_codes, render
from stem_kombu_cli.failure import Failure, document
from stem_kombu_cli.render import ReaderGone, StdoutBroken, abandon, note, print_json

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: Raised by newer Clicks for a group without a command; its message is the help.
_HELP_WANTED: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


@dataclass(frozen=True)
class Terminal:
    """How the program was asked to speak."""

    color: str = "auto"
    debug: bool = False


class LazyGroup(click.Group):
    """A group whose commands are imported when one is called: ``--help`` must cost nothing.

    ``lazy`` maps a name to where the command is and to the line that ``--help`` shows for it.
    """

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # Click's own would import every command to ask whether it is hidden; a key press must not wait for that.
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=line) for name, (_, line) in self._lazy.items() if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._lazy.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self._lazy:
            near = self._nearest(ctx, args[0])
            meant = f" Did you mean '{ctx.command_path} {near}'?" if near else ""
            raise click.UsageError(f"there is no command {args[0]!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def _nearest(self, ctx: click.Context, name: str) -> str | None:
        """The command that was meant: one of a group that was left out, one that is spelled alike, or its synonym."""
        import difflib

        groups = {group: self.get_command(ctx, group) for group in self._lazy}
        inside = {
            command: f"{group} {command}"
            for group, found in reversed(groups.items())
            if isinstance(found, LazyGroup)
            for command in found._lazy
        }
        known = {**inside, **{command: command for command in self._lazy}, **_SYNONYMS}
        if name in known:
            return known[name]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        return known[near[0]] if near else None


_COMMANDS = "stem_kombu_cli.commands"
#: What users of other tools type, and where it is here.
_SYNONYMS = {
    "queues": "queue list",
    "events": "worker status --follow",
    "run": "worker start",
}


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example:  stem worker ping --json",
    lazy={
        "worker": (f"{_COMMANDS}.worker:worker", "Run, see, stop and steer workers."),
        "queue": (f"{_COMMANDS}.queue:queue", "See, pause, resume and empty task queues."),
        "directives": (f"{_COMMANDS}.directives:directives", "Pauses and other directives in force."),
        "task": (f"{_COMMANDS}.task:task", "Enqueue a task; find recorded tasks."),
        "revokes": (f"{_COMMANDS}.revokes:revokes", "See revocations, and take them back."),
        "audit": (f"{_COMMANDS}.audit:audit", "See who changed what."),
        "health": (f"{_COMMANDS}.health:health", "Can broker, backend and revoke store be reached?"),
        "store": (f"{_COMMANDS}.store:store", "Check, repair and export the revoke store."),
        "keys": (f"{_COMMANDS}.keys:keys", "Keys that sign commands and answers."),
        "top": (f"{_COMMANDS}.top:top", "The fleet live, and keys to act."),
        "metrics": (f"{_COMMANDS}.metrics:metrics", "Metrics of the fleet, for Prometheus."),
        "demo": (f"{_COMMANDS}.demo:demo", "A tour in one command, no server needed."),
    },
)
@click.version_option(package_name="stem-kombu", prog_name="stem")
@click.option("--debug", is_flag=True, help="Show tracebacks; may stand after the command as well.")
@click.option(
    "--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="When to colour."
)
@click.pass_context
def cli(ctx: click.Context, debug: bool, color: str) -> None:
    """A control plane for Kombu and Celery workers."""
    ctx.obj = Terminal(color, debug or (ctx.obj is not None and ctx.obj.debug))


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit with its code."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """The exit code of the program; errors are two lines on stderr, and a JSON document on stdout where JSON was asked for.
    A traceback is shown for ``--debug`` only, which may stand anywhere."""
    given = list(argv[: argv.index("--")] if "--" in argv else argv)
    debug = "--debug" in given
    argv = [argument for argument in given if argument != "--debug"] + list(argv[len(given) :])
    ending = _Ending(_wants_json(given))
    render.documents, render.streams = 0, False
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding lacks is written out instead of ending the program.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(argv, prog_name="stem", standalone_mode=False, obj=Terminal(debug=debug))
        sys.stdout.flush()
        return int(code or 0)
    except click.exceptions.Exit as leaving:
        return int(leaving.exit_code)
    except click.UsageError as error:
        if isinstance(error, _HELP_WANTED):
            note(error.format_message())
            return exit_codes.USAGE
        where = error.ctx.command_path if error.ctx is not None else "stem"
        return ending.told(error.format_message(), f"see: {where} --help", exit_codes.USAGE)
    except click.ClickException as error:
        return ending.told(error.format_message(), None, exit_codes.USAGE)
    except Failure as failure:
        return ending.told(failure.message, failure.hint, failure.code, failure.facts)
    except (KeyboardInterrupt, click.Abort):
        return ending.told("interrupted", None, exit_codes.INTERRUPTED)
    except StdoutBroken as broken:
        return ending.unwritable(broken)
    except ReaderGone:
        return exit_codes.BROKEN_PIPE
    except BrokenPipeError:
        abandon(sys.stdout)
        return exit_codes.BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the boundary of the program: the user gets a sentence and a code
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            abandon(sys.stdout)  # Click writes the help by itself
            return ending.unwritable(error.strerror)
        if debug:
            from stem_kombu.redaction import mask_url

            note(mask_url(traceback.format_exc()).rstrip())
        return ending.explained(error)


def _wants_json(argv: Sequence[str]) -> bool:
    """Whether JSON is asked for, also where the rest of the arguments can't be read."""
    return "--json" in argv or "-ojson" in argv or ("-o", "json") in pairwise(argv)


@dataclass(frozen=True)
class _Ending:
    """Tells of an error, in text and, where that was asked for, in JSON."""

    as_json: bool

    def told(self, message: str, hint: str | None, code: int, facts: Mapping[str, object] | None = None) -> int:
        note(f"error: {message}")
        if hint:
            note(f"hint: {hint}")
        if self.as_json and (render.documents == 0 or render.streams):
            try:
                print_json(document(message, hint, code, facts or {}))
            except ReaderGone:
                return exit_codes.BROKEN_PIPE
        return code

    def unwritable(self, why: object) -> int:
        note(f"error: stdout can't be written: {why}")
        return exit_codes.NO

    def explained(self, error: Exception) -> int:
        from stem_kombu.errors import StemError

        if not isinstance(error, StemError):
            from stem_kombu.redaction import mask_url

            return self.told(
                f"{type(error).__name__}: {mask_url(str(error))}",
                "run it again with --debug and report what it prints",
                exit_codes.NO,
            )
        return self.told(str(error), error.hint, exit_codes.of_error(error))
