"""``directives``: obey what the store holds already, and say what counts here now.

The store isn't written here: the client did that before it sent the command (G21). Obeying is quick; only the reply waits, to
a pause until nothing of its queue can start any more (G22).
"""

from __future__ import annotations

from collections.abc import Callable

from stem_kombu.clock import isoformat
from stem_kombu.control.protocol.messages import Obey
from stem_kombu.control.server.worker_view import Obeyed, Setting, WorkerView


def obey(order: Obey, view: WorkerView) -> Obeyed:
    """Have the worker obey the directives of its namespace."""
    namespace = view.identity.namespace
    return view.obey([one for one in order.directives if one.namespace == namespace])


def obeyed_payload(obeyed: Obeyed, view: WorkerView, budget: Callable[[], float]) -> dict[str, object]:
    """``applied`` is the highest version that is known here, ``settings`` what counts, ``given_back`` counts deliveries that
    go back to their queues, ``starting`` those of a paused queue whose start was under way and is so after ``budget()``
    seconds, ``retiring`` children that are too many and go after what they run. ``refused`` are versions of directives that no
    key of the fleet signed."""
    starting = view.wait_started(obeyed.starting, budget())
    return {
        "applied": obeyed.version,
        "settings": settings_payload(view),
        "given_back": obeyed.given_back,
        "starting": starting,
        "retiring": obeyed.retiring,
        "refused": [one.version for one in obeyed.refused],
    }


def settings_payload(view: WorkerView) -> dict[str, dict[str, object]]:
    """What counts, by kind and subject; a kind without a subject has the empty one."""
    return {
        kind: {subject or "": _setting(one) for subject, one in subjects.items()}
        for kind, subjects in view.settings().items()
    }


def _setting(one: Setting) -> dict[str, object]:
    directive = one.directive
    found: dict[str, object] = {"value": one.value, "base": one.base, "source": one.source, "clamped": one.clamped}
    if directive is not None:
        found |= {
            "source": "directive",
            "version": directive.version,
            "workers": directive.workers,
            "issued_at": isoformat(directive.issued_at),
            "expires_at": None if directive.expires_at is None else isoformat(directive.expires_at),
            "requested_by": directive.requested_by,
            "reason": directive.reason,
        }
    return found
