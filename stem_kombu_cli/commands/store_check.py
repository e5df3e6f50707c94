"""``stem store check``: what the revoke store holds, and what is wrong with it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from stem_kombu.bound import is_bound
from stem_kombu.ladder import is_ladder
from stem_kombu_cli import exit_codes
from stem_kombu_cli.options import output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, note, print_json, table, use_color

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stem_kombu.settings import Settings
    from stem_kombu.stores.base import RevokeStore
    from stem_kombu.stores.quarantine import SetAside


@click.command(epilog="Example:  stem store check --json")
@place_options
@output_options
@click.pass_context
def check(ctx: click.Context, /, **values: object) -> None:
    """Read every revocation of the namespace and name what can't be read.

    Exit code 0 when all can be read, 1 when something is wrong, 74 when the store can't be reached or read at all.
    """
    as_json = wants_json(values)
    settings = places_of(values).settings()
    with opened(settings) as store:
        found = examined(store, settings.namespace)
        aside = store.quarantine.of(settings.namespace)
    if as_json:
        print_json({**found, "command": "check"})
    else:
        emit(text(found, use_color(ctx.obj.color)))
    for problem in found["problems"]:
        note(f"problem: {problem}")
    if is_wrong := bool(found["problems"] or aside):
        note(
            "hint: stem store repair rebuilds indexes and moves aside what can't be read; workers obey the rest meanwhile"
        )
    ctx.exit(exit_codes.NO if is_wrong else exit_codes.OK)


@contextmanager
def opened(settings: Settings) -> Iterator[RevokeStore]:
    """The revoke store of the settings, closed at the end."""
    from stem_kombu.stores.registry import open_revoke_store

    source = settings.revoke_store
    store = open_revoke_store(source.value, name=source.name, tls=settings.tls)
    try:
        yield store
    finally:
        store.close()


def examined(store: RevokeStore, namespace: str) -> dict[str, Any]:
    """What the store holds and what is wrong with it, as the document of these commands."""
    problems = store.problems(namespace)
    now, counts = store.now(), {"records": 0, "live": 0, "expired": 0, "terminate": 0, "signed": 0}
    for record in store.since(namespace, 0):
        counts["records"] += 1
        counts["expired" if record.is_expired(now) else "live"] += 1
        counts["terminate"] += record.terminate
        counts["signed"] += any(not is_ladder(proof) and not is_bound(proof) for proof in record.proofs)
    aside = store.quarantine.of(namespace)
    return {
        "schema": "stem.store/1",
        "store": store.url,
        "namespace": namespace,
        "ok": not problems and not aside,
        "revision": store.revision(namespace),
        **counts,
        "problems": problems,
        "set_aside": [shown(one) for one in aside],
    }


def shown(found: SetAside) -> dict[str, object]:
    return {"place": found.place, "task_id": found.task_id, "reason": found.reason}


def text(found: dict[str, Any], color: bool) -> str:
    """The document for people."""
    facts = ", ".join(f"{found[name]} {name}" for name in ("records", "live", "expired", "terminate", "signed"))
    lines = [f"{found['store']}, namespace {found['namespace']}: {facts}; revision {found['revision']}"]
    if found["set_aside"]:
        rows = [(one["place"], one["task_id"], one["reason"]) for one in found["set_aside"]]
        lines += ["", table(("SET ASIDE", "TASK", "REASON"), rows, color=color, shrink=2)]
    return "\n".join(lines)
