"""Messages of a team's own format: which task each of them is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """A message that names no task. ``body`` is decompressed; ``properties`` are AMQP's, under Kombu's names."""

    queue: str
    body: bytes
    content_type: str | None
    headers: Mapping[str, object]
    properties: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class TaskCall:
    """The task that such a message is: its name, its arguments, and its id.

    Without ``task_id`` the id is the message's own (the property ``message_id``), else a new one with each delivery.
    """

    name: str
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)
    task_id: str | None = None


#: ``None``: it is no task, and goes where such messages go.
Adapter = Callable[[IncomingMessage], TaskCall | None]
