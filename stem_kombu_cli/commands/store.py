"""``stem store``: the group."""

from __future__ import annotations

import click

from stem_kombu_cli.main import LazyGroup

_HERE = "stem_kombu_cli.commands"


@click.group(
    cls=LazyGroup,
    epilog="Example:  stem store check",
    lazy={
        "check": (f"{_HERE}.store_check:check", "Read all of the revoke store and say what is wrong with it."),
        "repair": (f"{_HERE}.store_repair:repair", "Rebuild indexes; move aside what can't be read."),
        "export": (f"{_HERE}.store_export:export", "Print every revocation, with its proofs, as JSON."),
    },
)
def store() -> None:
    """Look after the revoke store. Workers may go on meanwhile."""
