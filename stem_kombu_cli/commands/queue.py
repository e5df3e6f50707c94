"""``stem queue``: the group."""

from __future__ import annotations

import click

from stem_kombu_cli.main import LazyGroup

_HERE = "stem_kombu_cli.commands"


@click.group(
    cls=LazyGroup,
    epilog="Example:  stem queue list",
    lazy={
        "list": (f"{_HERE}.queue_list:list_queues", "Depth, oldest age and consumers of each queue."),
        "peek": (f"{_HERE}.queue_peek:peek", "What waits in a queue, without taking anything."),
        "pause": (f"{_HERE}.queue_pause:pause", "Have workers start no task of a queue; asks first."),
        "resume": (f"{_HERE}.queue_resume:resume", "End the pauses of a queue."),
        "purge": (f"{_HERE}.queue_purge:purge", "Remove what waits in a queue; asks first."),
    },
)
def queue() -> None:
    """See, pause, resume and empty task queues."""
