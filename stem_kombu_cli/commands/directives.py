"""``stem directives``: the group."""

from __future__ import annotations

import click

from stem_kombu_cli.main import LazyGroup

_HERE = "stem_kombu_cli.commands"


@click.group(
    cls=LazyGroup,
    epilog="Example:  stem directives list",
    lazy={
        "list": (
            f"{_HERE}.directives_list:list_directives",
            "Directives in force, their authors, and who has not applied them.",
        ),
        "clear": (f"{_HERE}.directives_clear:clear", "End directives; asks first."),
    },
)
def directives() -> None:
    """The desired state of a fleet: pauses and other directives that hold until further notice."""
