"""``stem keys``: the group."""

from __future__ import annotations

import click

from stem_kombu_cli.main import LazyGroup

_HERE = "stem_kombu_cli.commands"


@click.group(
    cls=LazyGroup,
    epilog="Example:  stem keys generate --algorithm ed25519 --id ops",
    lazy={
        "generate": (f"{_HERE}.keys_generate:generate", "Make a key and print the variables to paste."),
        "endorse": (f"{_HERE}.keys_endorse:endorse", "Sign revocations that the store holds from before."),
        "check": (f"{_HERE}.keys_check:check", "Are the signing variables complete, and what may each key do?"),
    },
)
def keys() -> None:
    """Keys that sign what operators and workers say to each other."""
