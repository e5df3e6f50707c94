"""What the commands that change something share: their options (**M** in operators.md), the reason, and the question before
what is dangerous (G36)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stem_kombu_cli import exit_codes
from stem_kombu_cli.failure import Failure

if TYPE_CHECKING:
    from stem_kombu.settings import Settings

F = TypeVar("F", bound=Callable[..., object])

#: Of more than this many (tasks, messages) the count has to be typed; a single ``y`` is not enough.
MOST_BY_ONE_KEY = 100

#: Said where a change was carried out without an entry in the audit.
NOT_AUDITED = "warning: the audit has no entry of this: the revoke store was down, or keeps revocations only"


def changing_options(function: F, *, wait: str | None = "Return when all live workers have applied it.") -> F:
    """``--reason --requester --dry-run -y/--yes --wait``. A command takes them out of its values with :func:`change_of`.

    ``wait``: what ``--wait`` waits for, where that is something else; ``None``: there is nothing to wait for, and no ``--wait``.
    """
    for option in (
        *([] if wait is None else [click.option("--wait", is_flag=True, help=wait)]),
        click.option("-y", "--yes", is_flag=True, help="Don't ask; needed without a terminal, and with --json."),
        click.option("--dry-run", is_flag=True, help="Show what would change; store and send nothing."),
        click.option("--requester", metavar="TEXT", help="By whom (default: user@host)."),
        click.option("--reason", metavar="TEXT", help="Why; kept with the change.  [required by: STEM_REQUIRE_REASON]"),
    ):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Change:
    """What those options say. ``requester`` is ``None`` for user@host; ``as_json``: the output is JSON."""

    reason: str | None = None
    requester: str | None = None
    dry_run: bool = False
    yes: bool = False
    wait: bool = False
    as_json: bool = False

    @property
    def can_ask(self) -> bool:
        """Whether a person can answer a question here: a terminal on stdin and stderr, and no JSON."""
        return not self.as_json and sys.stdin.isatty() and sys.stderr.isatty()


def change_of(values: dict[str, Any], *, as_json: bool) -> Change:
    """Take the options out of a command's values."""
    named = {name: values.pop(name) for name in ("reason", "requester", "dry_run", "yes")}
    return Change(**named, wait=values.pop("wait", False), as_json=as_json)


def reason_of(change: Change, settings: Settings) -> str | None:
    """The reason, without blanks around it; ``None`` when there is none and none is required.

    With ``STEM_REQUIRE_REASON`` a missing one is asked for on a terminal, and ends the command with exit code 2 elsewhere.
    """
    given = (change.reason or "").strip()
    if given or not settings.require_reason or change.dry_run:
        return given or None
    if change.can_ask:
        given = str(click.prompt("reason", err=True, default="", show_default=False)).strip()
    if not given:
        raise Failure(
            "no reason was given, and STEM_REQUIRE_REASON is set",
            exit_codes.USAGE,
            hint="add --reason TEXT, for example --reason INC-42",
        )
    return given


def confirm(change: Change, danger: str, *, count: int = 0) -> bool:
    """Ask before ``danger``, a sentence without its full stop: "this pauses queue mail on every worker". Default: no.

    ``count``: tasks or messages that it strikes; above :data:`MOST_BY_ONE_KEY` that number has to be typed. With ``--yes``
    or ``--dry-run`` nothing is asked. Raises :class:`Failure` with exit code 5 when the answer is no, and where no person
    can answer: without a terminal, or with JSON. Nothing may be stored or sent before. Returns whether a person was asked.
    """
    if change.yes or change.dry_run:
        return False
    if not change.can_ask:
        where = "JSON output" if change.as_json else "no terminal"
        raise Failure(
            f"not confirmed: {danger}; with {where} the command can't ask, and nothing was stored",
            exit_codes.REFUSED,
            hint="look at it with --dry-run, then add --yes",
        )
    if not _agreed(danger, count):
        raise Failure("not confirmed; nothing was stored", exit_codes.REFUSED)
    return True


def _agreed(danger: str, count: int) -> bool:
    sentence = f"{danger[:1].upper()}{danger[1:]}."
    if count <= MOST_BY_ONE_KEY:
        return click.confirm(f"{sentence} Go on?", default=False, err=True)
    typed = click.prompt(f"{sentence} Type {count} to go on", err=True, default="", show_default=False)
    return str(typed).strip() == str(count)
