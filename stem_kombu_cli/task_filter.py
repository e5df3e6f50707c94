"""Which of the tasks that run ``stem worker inspect`` shows: by name, queue, running time, and whether a stop was requested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import click

from stem_kombu.control.client.reports import Report
from stem_kombu_cli import completion
from stem_kombu_cli.options import DURATION, TEXT

F = TypeVar("F", bound=Callable[..., object])


def filter_options(function: F) -> F:
    """``--name --queue --longer-than --stopping``. A command takes them out of its values with :func:`filter_of`."""
    for option in (
        click.option("--stopping", is_flag=True, help="Only tasks whose stop was requested."),
        click.option("--longer-than", type=DURATION, help="Only tasks that have run for longer than this."),
        click.option(
            "-q",
            "--queue",
            "queues",
            type=TEXT,
            metavar="NAME",
            multiple=True,
            help="Only of this queue; repeat it.",
            shell_complete=completion.queues,
        ),
        click.option(
            "--name",
            "names",
            type=TEXT,
            metavar="GLOB",
            multiple=True,
            help="Only tasks of this name; repeat it.",
            shell_complete=completion.task_names,
        ),
    ):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """All conditions have to hold; of several names or queues one is enough. ``longer_than`` is in seconds."""

    names: Sequence[str] = ()
    queues: Sequence[str] = ()
    longer_than: float | None = None
    stopping: bool = False

    def applied(self, report: Report) -> Report:
        """The report with the tasks that match alone; what has ended and waits for its record goes by name and queue."""
        if self == TaskFilter():
            return report
        return replace(
            report, replies=tuple(replace(one, payload=self._payload(one.payload)) for one in report.replies)
        )

    def _payload(self, payload: Mapping[str, object]) -> dict[str, object]:
        found = dict(payload)
        for name, matches in (("in_flight", self._runs_so), ("waiting", self._is_so)):
            if isinstance(held := payload.get(name), list):
                found[name] = [one for one in held if isinstance(one, Mapping) and matches(one)]
        return found

    def _is_so(self, task: Mapping[str, object]) -> bool:
        name, queue = str(task.get("name")), str(task.get("queue"))
        is_named = not self.names or any(fnmatchcase(name, pattern) for pattern in self.names)
        return is_named and (not self.queues or queue in self.queues)

    def _runs_so(self, task: Mapping[str, object]) -> bool:
        runtime = task.get("runtime_s")
        is_long = self.longer_than is None or (isinstance(runtime, (int, float)) and runtime > self.longer_than)
        return (
            is_long and (not self.stopping or task.get("terminate_requested_s_ago") is not None) and self._is_so(task)
        )


def filter_of(values: dict[str, Any]) -> TaskFilter:
    """Take the options out of a command's values."""
    return TaskFilter(*(values.pop(name) for name in ("names", "queues", "longer_than", "stopping")))
