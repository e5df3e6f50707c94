"""What a Celery message carries beside its task: its place in a group or a canvas.

A group is a number of plain tasks and runs. Links, chains and chords need what Stem doesn't have (the sender's routes,
counters in its backend): they are recognised here, and the worker refuses the task before it runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from stem_kombu.fields import is_text
from stem_kombu.messages.encoding import HEADER_SENT_AT
from stem_kombu.revocation import TASK_ID_LIMIT
from stem_kombu.selector import header_text
from stem_kombu.task import CeleryOrigin

#: Keys of the body's third part, in the order in which people are told of them.
CANVAS_PARTS = ("callbacks", "errbacks", "chain", "chord")
#: Ids of waiting tasks that are read from one message, and how deep canvases may stand in each other.
_MOST_DEPENDENTS = 1000
_DEEPEST = 20


def celery_origin(headers: Mapping[str, object], embed: Mapping[str, object]) -> CeleryOrigin:
    """What the message carries of its sender's; invalid values count as absent, since no task depends on them."""
    canvas = tuple(part for part in CANVAS_PARTS if embed.get(part))
    dependents = _dependents(embed) if canvas else {}
    index = headers.get("group_index")
    return CeleryOrigin(
        ignore_result=bool(headers.get("ignore_result")),
        root_id=_text(headers.get("root_id")),
        parent_id=_text(headers.get("parent_id")),
        group=_text(headers.get("group")),
        group_index=index if isinstance(index, int) and not isinstance(index, bool) else None,
        canvas=canvas,
        dependents=tuple(dependents),
        dependent_names=tuple(dependents.values()),
        dated=HEADER_SENT_AT in headers,
        stamps=_stamps(headers.get("stamps")) if headers.get("stamps") else {},
    )


def _stamps(value: object) -> dict[str, tuple[str, ...]]:
    """Celery's stamps: the values of each as texts, as a sender's own headers are compared."""
    given = value.items() if isinstance(value, Mapping) else ()
    listed = {str(key): one if isinstance(one, (list, tuple, set)) else (one,) for key, one in given}
    return {key: tuple(header_text(one) for one in values) for key, values in listed.items()}


def _dependents(embed: Mapping[str, object]) -> dict[str, str]:
    """Names of the tasks that would have followed, by id."""
    found: dict[str, str] = {}
    # Error handlers don't wait for anything: they are what a failure would start.
    layer: list[object] = [embed.get(part) for part in ("callbacks", "chain", "chord")]
    for _ in range(_DEEPEST):
        inner: list[object] = []
        for value in layer:
            if isinstance(value, list):
                inner.extend(value)
            elif isinstance(value, dict):
                options, kwargs = value.get("options"), value.get("kwargs")
                if isinstance(options, dict):
                    if (task_id := _text(options.get("task_id"))) is not None and len(found) < _MOST_DEPENDENTS:
                        found[task_id] = _text(value.get("task")) or "(unknown)"
                    inner.extend((options.get("link"), options.get("chord")))
                if value.get("subtask_type") and isinstance(kwargs, dict):
                    # A group, chain or chord inside: its members stand among its keywords.
                    inner.extend((kwargs.get("tasks"), kwargs.get("header"), kwargs.get("body")))
        layer = [value for value in inner if value]
        if not layer or len(found) >= _MOST_DEPENDENTS:
            break
    return found


def _text(value: object) -> str | None:
    return value if is_text(value, most=TASK_ID_LIMIT, without=None) else None
