"""``stem task``: the group."""

from __future__ import annotations

import click

from stem_kombu_cli.main import LazyGroup

_HERE = "stem_kombu_cli.commands"


@click.group(
    cls=LazyGroup,
    epilog="""Example:  stem task send tasks.render-image --kwargs '{"tiles": 4}'""",
    lazy={
        "send": (f"{_HERE}.task_send:send", "Enqueue a task and print its id."),
        "list": (f"{_HERE}.task_list:list_tasks", "Find recorded tasks by state, name, queue, worker."),
        "retry": (f"{_HERE}.task_retry:retry", "Have failed tasks run again, with new ids."),
        "show": (f"{_HERE}.task_show:show", "Show a task's recorded state."),
    },
)
def task() -> None:
    """Enqueue a task; find tasks, and show what is recorded of them."""
