"""``stem queue purge``."""

from __future__ import annotations

from functools import partial

import click

from stem_kombu.control.client.queues import SCHEMA, QueueClient
from stem_kombu_cli import completion, exit_codes
from stem_kombu_cli.changing import NOT_AUDITED, change_of, changing_options, confirm, reason_of
from stem_kombu_cli.options import TEXT, output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import counted, emit, note, print_json


@click.command(epilog="Example:  stem queue purge old-mail --reason INC-42")
@click.argument("queue", type=TEXT, metavar="QUEUE", shell_complete=completion.queues)
@partial(changing_options, wait=None)
@place_options
@output_options
@click.pass_context
def purge(ctx: click.Context, /, queue: str, **values: object) -> None:
    """Remove what waits in QUEUE. It can't be undone.

    Messages that workers hold stay with them. The tasks' records stay as they are: a task that was removed is shown as
    queued until its record expires. Exit code 4: nothing waits there.
    """
    as_json = wants_json(values)
    change = change_of(values, as_json=as_json)
    settings = places_of(values).settings()
    reason = reason_of(change, settings)
    with QueueClient(settings) as client:
        (state,) = client.states([queue]).queues
        waiting = "an unknown number of messages" if state.depth is None else counted(state.depth, "message")
        confirm(change, f"this removes {waiting} from queue {queue!r} for good", count=state.depth or 0)
        removed = (
            (state.depth or 0) if change.dry_run else client.purge(queue, reason=reason, requested_by=change.requester)
        )
        audited = client.is_audited
    if as_json:
        document = {"schema": SCHEMA, "queue": queue, "removed": removed, "dry_run": change.dry_run, "reason": reason}
        print_json({**document, "audited": audited})
    else:
        emit(f"{'would remove' if change.dry_run else 'removed'}: {counted(removed, 'message')} from queue {queue}")
    if not removed:
        note(f"nothing waits in queue {queue!r}")
    if not audited:
        note(NOT_AUDITED)
    code = exit_codes.OK if removed else exit_codes.NOTHING_MATCHED
    ctx.exit(code if audited or code != exit_codes.OK else exit_codes.PARTIAL)
