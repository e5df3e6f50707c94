"""The program: its groups, loaded only when used, and the one place where errors become exit codes."""

from __future__ import annotations

import errno
import io
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

from stem_kombu_cli import exit_codes
from stem_kombu_cli.render import ReaderGone, StdoutBroken, abandon, note

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
            import difflib

            near = difflib.get_close_matches(args[0], self._lazy, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"there is no command {args[0]!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)


_COMMANDS = "stem_kombu_cli.commands"


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example:  stem worker ping --json",
    lazy={
        "worker": (f"{_COMMANDS}.worker:worker", "Run, see, stop and steer workers."),
        "task": (f"{_COMMANDS}.task:task", "Enqueue a task; show a task's recorded state."),
        "health": (f"{_COMMANDS}.health:health", "Can broker, backend and revoke store be reached?"),
        "keys": (f"{_COMMANDS}.keys:keys", "Keys that sign commands and answers."),
        "demo": (f"{_COMMANDS}.demo:demo", "The whole story in one command, no server needed."),
    },
)
@click.version_option(package_name="stem-kombu", prog_name="stem")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option(
    "--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="When to colour."
)
@click.pass_context
def cli(ctx: click.Context, debug: bool, color: str) -> None:
    """A control plane for Kombu and Celery workers."""
    ctx.obj = Terminal(color, debug)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit with its code."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """The exit code of the program; errors are two lines on stderr, with a traceback only for ``--debug``."""
    debug = "--debug" in argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding lacks is written out instead of ending the program.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(list(argv), prog_name="stem", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except click.exceptions.Exit as leaving:
        return int(leaving.exit_code)
    except click.UsageError as error:
        if isinstance(error, _HELP_WANTED):
            note(error.format_message())
            return exit_codes.USAGE
        where = error.ctx.command_path if error.ctx is not None else "stem"
        return _told(error.format_message(), f"see: {where} --help", exit_codes.USAGE)
    except click.ClickException as error:
        return _told(error.format_message(), None, exit_codes.USAGE)
    except (KeyboardInterrupt, click.Abort):
        return _told("interrupted", None, exit_codes.INTERRUPTED)
    except StdoutBroken as broken:
        return _told(f"stdout can't be written: {broken}", None, exit_codes.NO)
    except ReaderGone:
        return exit_codes.BROKEN_PIPE
    except BrokenPipeError:
        abandon(sys.stdout)
        return exit_codes.BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the boundary of the program: the user gets a sentence and a code
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            abandon(sys.stdout)  # Click writes the help by itself
            return _told(f"stdout can't be written: {error.strerror}", None, exit_codes.NO)
        if debug:
            from stem_kombu.redaction import mask_url

            note(mask_url(traceback.format_exc()).rstrip())
        return _explained(error)


def _explained(error: Exception) -> int:
    from stem_kombu.errors import BrokerError, ConfigurationError, ControlError, StemError, StoreError

    if not isinstance(error, StemError):
        from stem_kombu.redaction import mask_url

        return _told(
            f"{type(error).__name__}: {mask_url(str(error))}",
            "run it again with --debug and report what it prints",
            exit_codes.NO,
        )
    code = exit_codes.NO
    if isinstance(error, ConfigurationError):
        code = exit_codes.USAGE
    elif isinstance(error, (StoreError, BrokerError)):
        code = exit_codes.UNREACHABLE
    elif isinstance(error, ControlError) and error.code == "refused":
        code = exit_codes.REFUSED
    return _told(str(error), error.hint, code)


def _told(message: str, hint: str | None, code: int) -> int:
    note(f"error: {message}")
    if hint:
        note(f"hint: {hint}")
    return code
