"""Tasks of celery-batches: what was revoked while it waited for its batch does not get into it.

Such a task hands a list of requests to the pool. Celery itself looks at what is revoked when it hands on a single request.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery.worker.request import Request


def sift(task: object) -> None:
    """Leave out of each batch of the task what is revoked, and record that; nothing is done to any other task."""
    module = sys.modules.get("celery_batches")
    if module is None or not isinstance(task, module.Batches) or hasattr(task.flush, "stem_original"):
        return
    flush = task.flush

    @functools.wraps(flush)
    def sifted(requests: Collection[Request]) -> object:
        left = [request for request in requests if not request.revoked()]
        return flush(left) if left else None

    sifted.stem_original = flush  # type: ignore[attr-defined]
    task.flush = sifted
