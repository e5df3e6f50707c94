"""``stem revokes``: the group."""

from __future__ import annotations

import click

from stem_kombu_cli.main import LazyGroup

_HERE = "stem_kombu_cli.commands"


@click.group(
    cls=LazyGroup,
    epilog="Example:  stem revokes undo 1761057 --reason typo",
    lazy={
        "list": (f"{_HERE}.revokes_list:list_revokes", "Revocations in force, the newest first."),
        "show": (f"{_HERE}.revokes_show:show", "What is known of one: who, why, undone or not."),
        "rules": (f"{_HERE}.revokes_rules:list_rules", "Rules in force: revocations by what tasks are."),
        "undo": (f"{_HERE}.revokes_undo:undo", "Take revocations back."),
        "prune": (f"{_HERE}.revokes_prune:prune", "Delete what has ended long ago; asks first."),
    },
)
def revokes() -> None:
    """See revocations, and take them back."""
