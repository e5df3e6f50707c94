"""What Celery's own ``revoke`` records for tasks that do not run here: with who revoked them, when and why.

From 5.6 on Celery's worker writes the state ``REVOKED`` for the ids that it is given, and nothing but "revoked" as the reason. It
looks at each task's state first, and writes later: a task that stopped in between would lose what Stem has recorded of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery.backends.base import Backend

#: What Celery gives as the reason.
_PLAIN = "revoked"


@contextmanager
def with_reasons(backends: Iterable[Backend], why: Callable[[str], str]) -> Iterator[None]:
    """Within the block, these result backends record ``why(task_id)`` where Celery gives its own reason."""
    taught = list({id(backend): backend for backend in backends}.values())
    for backend in taught:
        backend.mark_as_revoked = partial(_mark, backend.mark_as_revoked, why)
    try:
        yield
    finally:
        for backend in taught:
            backend.__dict__.pop("mark_as_revoked", None)


def _mark(
    mark: Callable[..., object], why: Callable[[str], str], task_id: str, reason: str = "", **given: object
) -> object:
    return mark(task_id, why(task_id) if reason == _PLAIN else reason, **given)
