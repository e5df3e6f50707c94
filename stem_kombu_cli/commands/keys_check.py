"""``stem keys check``: what the signing variables amount to, without showing a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stem_kombu.errors import ConfigurationError
from stem_kombu.settings import Settings, SigningSettings
from stem_kombu.signing.configuration import open_keyring, task_signing
from stem_kombu.signing.keyring import Key, Keyring, Scope
from stem_kombu.signing.selftest import self_test
from stem_kombu_cli.options import output_options, signing_of, signing_options, wants_json
from stem_kombu_cli.render import emit, note, print_json, table, use_color


@click.command(epilog="Example:  stem keys check --json")
@signing_options
@output_options
@click.pass_context
def check(ctx: click.Context, /, **values: object) -> None:
    """Read the signing variables, sign and verify with each key, and say what each may do. No secret is shown.

    Exit code 0 when they are complete, 2 when something is missing or invalid.
    """
    as_json = wants_json(values)
    settings = Settings.from_env(signing=signing_of(values)).signing
    ring = open_keyring(settings)
    if ring is None:
        raise ConfigurationError("signing is not configured", hint="stem keys generate prints what to set")
    self_test(ring)
    warnings = _warnings(ring) + _open_files(settings)
    rows = [_row(ring, key) for key in ring.keys.values()]
    if as_json:
        print_json(
            {
                "schema": "stem.keys/1",
                "active": ring.active.id,
                "algorithm": ring.active.algorithm,
                "tasks": task_signing(settings),
                "scoped": ring.scoped,
                "keys": rows,
                "warnings": warnings,
            }
        )
    else:
        color = use_color(ctx.obj.color)
        lines = [
            (
                row["id"],
                row["algorithm"],
                "active" if row["active"] else "signs" if row["can_sign"] else "verifies",
                ",".join(row["scopes"]) or "-",
                row["fingerprint"],
            )
            for row in rows
        ]
        emit(table(("KEY", "ALGORITHM", "USE", "SCOPES", "FINGERPRINT"), lines, color=color), color=color)
    for warning in warnings:
        note(f"warning: {warning}")


def _row(ring: Keyring, key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "algorithm": key.algorithm,
        "active": key is ring.active,
        "can_sign": key.material.can_sign,
        "scopes": [scope.value for scope in Scope if scope in key.scopes],
        "fingerprint": key.material.fingerprint(),
    }


def _open_files(settings: SigningSettings) -> list[str]:
    """Files of secrets that others on this machine may read."""
    given = [text for text in (settings.keys, settings.private_keys) if text is not None and text.startswith("@")]
    paths = [Path(text[1:]).expanduser() for text in given]
    return [f"{path} can be read by others: chmod 600 {path}" for path in paths if path.stat().st_mode & 0o077]


def _warnings(ring: Keyring) -> list[str]:
    found = []
    if not ring.active.scopes:
        found.append(f"the active key {ring.active.id!r} has no scope: nothing that it signs is obeyed")
    if not ring.scoped:
        return found
    for key in ring.keys.values():
        more = key.scopes - ring.active.scopes
        if key.material.can_sign and key is not ring.active and more:
            named = ", ".join(sorted(scope.value for scope in more))
            found.append(
                f"key {key.id!r} is here with its secret half, and may do what the active key may not ({named}): "
                "every process that reads these variables can sign with it; use ed25519, and distribute public keys only"
            )
    return found
