"""Where a worker writes how tasks ended."""

from __future__ import annotations

from dataclasses import dataclass

from stem_kombu.backends.base import TaskStates
from stem_kombu.backends.celery_results import CeleryResults, open_celery_results
from stem_kombu.settings import Settings
from stem_kombu.worker.failed_keeper import FailedKeeper, open_failed_keeper


@dataclass(frozen=True, slots=True)
class OutcomePlaces:
    """Task states, results for clients of Celery, and the messages of tasks that failed; ``None`` where there is no place."""

    states: TaskStates | None
    celery: CeleryResults | None = None
    failed: FailedKeeper | None = None

    def close(self) -> None:
        """Let go of the connections that are the worker's own; the application closes its backend."""
        for place in (self.celery, self.failed):
            if place is not None:
                place.close()


def open_outcome_places(states: TaskStates | None, settings: Settings) -> OutcomePlaces:
    """The places that these settings name, beside the application's backend; none connects yet."""
    celery = open_celery_results(settings.celery_results, settings.tls)
    return OutcomePlaces(states, celery, open_failed_keeper(settings))
