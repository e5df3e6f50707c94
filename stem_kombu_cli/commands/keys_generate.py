"""``stem keys generate``: a new key as variables to paste."""

from __future__ import annotations

import base64
import secrets

import click

from stem_kombu.clock import SYSTEM
from stem_kombu.signing.algorithms import ALGORITHMS, ED25519, GENERATED_BYTES, HMAC_SHA256, generated_pair
from stem_kombu.signing.configuration import ACTIVE, ALGORITHM, KEYS, PRIVATE, PUBLIC
from stem_kombu.signing.keyring import KEY_ID
from stem_kombu_cli.options import TEXT, output_options, wants_json
from stem_kombu_cli.render import emit, note, print_json


@click.command(epilog="Example:  stem keys generate --algorithm ed25519 --id ops > ops.env")
@click.option(
    "--algorithm", type=click.Choice(ALGORITHMS), default=HMAC_SHA256, show_default=True, help="What it signs with."
)
@click.option("--id", "key_id", type=TEXT, metavar="ID", help="Its name (default: a date and four digits).")
@output_options
@click.pass_context
def generate(ctx: click.Context, /, algorithm: str, key_id: str | None, **values: object) -> None:
    """Make a key and print the variables to paste, secrets included; nothing is stored.

    Every program that signs or verifies needs an HMAC secret. An ed25519 private key stays with its owner; all programs get the
    public one.
    """
    as_json = wants_json(values)
    name = key_id or f"k{SYSTEM.utcnow():%Y%m%d}-{secrets.token_hex(2)}"
    if not KEY_ID.fullmatch(name):
        raise click.UsageError(f"--id: {name!r} is not an id: letters, digits, '.', '_' and '-', at most 64", ctx)
    variables = {ALGORITHM: algorithm}
    if algorithm == ED25519:
        private, public = generated_pair()
        variables |= {PUBLIC: f"{name}:{_text(public)}", PRIVATE: f"{name}:{_text(private)}"}
    else:
        variables[KEYS] = f"{name}:{_text(secrets.token_bytes(GENERATED_BYTES))}"
    variables[ACTIVE] = name
    if as_json:
        print_json({"schema": "stem.keys/1", "id": name, "algorithm": algorithm, "variables": variables})
    else:
        emit("\n".join(f"export {variable}={value}" for variable, value in variables.items()))
    kept = PRIVATE if algorithm == ED25519 else KEYS
    note(f"note: {kept} is secret: pass it on through a secret store, or as a file ({kept}=@/path)")


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
