"""``stem audit``: the group."""

from __future__ import annotations

import click

from stem_kombu_cli.main import LazyGroup

_HERE = "stem_kombu_cli.commands"


@click.group(
    cls=LazyGroup,
    epilog="Example:  stem audit list --since 1h",
    lazy={
        "list": (f"{_HERE}.audit_list:list_entries", "Who changed what, and why."),
        "verify": (f"{_HERE}.audit_verify:verify", "Whether no entry was changed or removed."),
    },
)
def audit() -> None:
    """See who changed what."""
