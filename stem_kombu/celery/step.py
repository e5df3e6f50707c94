"""``install(app)``: the one line. A step of Celery's worker that has Stem born and die at the right moments."""

from __future__ import annotations

import functools
import logging
from typing import Any

from celery import bootsteps, signals
from celery.worker.control import Panel

from stem_kombu.celery import inside
from stem_kombu.celery.agent import Agent
from stem_kombu.celery.board import Board
from stem_kombu.celery.configuration import settings_of
from stem_kombu.errors import StemError

logger = logging.getLogger(__name__)

#: Entries of the board for each process or thread that runs tasks, at least so many in all.
_ENTRIES_EACH, _ENTRIES = 4, 64


def install(app: Any, **given: Any) -> Any:
    """Give the workers of this Celery application Stem's control plane; returns the application. May be called twice.

    Keywords are those of :func:`stem_kombu.celery.settings_of`: ``namespace=``, ``revoke_store=``, ``backend=`` …
    Nothing happens until a worker starts; producers pay for nothing. A worker then raises
    :class:`~stem_kombu.errors.StemError` at its start when its revocations can't be read: it would run what was revoked.
    """
    app.stem_options = given
    app.steps["worker"].add(StemStep)
    return app


class StemStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery publishes no types
    """Stem in one Celery worker."""

    # After the pool, whose children must not inherit our sockets; Celery's consumer is always the last.
    requires = frozenset({"celery.worker.components:Pool"})
    name = "stem"

    def __init__(self, worker: Any, **_: Any) -> None:
        self._agent: Agent | None = None
        worker.stem = None

    def create(self, worker: Any) -> StemStep:
        """Before the pool forks: put the board up and make tasks look at it."""
        board = Board(max(_ENTRIES, _ENTRIES_EACH * int(worker.concurrency or 1)))
        inside.put_up(board)
        for task in worker.app.tasks.values():
            inside.guarded(task)
        settings = settings_of(worker.app, **worker.app.stem_options)
        self._agent = worker.stem = Agent(worker, settings, board)
        return self

    def start(self, worker: Any) -> None:
        """Return once everything revoked is known and commands are heard; nothing has been consumed yet."""
        assert self._agent is not None
        try:
            self._agent.start()
        except StemError as error:
            logger.critical("stem can't start: %s%s", error, f" ({error.hint})" if error.hint else "")
            raise SystemExit(74) from error
        _make_revoke_durable(self._agent)
        agent = self._agent

        # The very end, after the pool has finished what it ran: until then commands are answered.
        def on_shutdown(**_: Any) -> None:
            agent.stop()

        signals.worker_shutdown.connect(on_shutdown, weak=False, dispatch_uid="stem-kombu")

    def close(self, worker: Any) -> None:
        if self._agent is not None:
            self._agent.drain()

    def stop(self, worker: Any) -> None:
        """Nothing yet: see :meth:`start`."""

    def terminate(self, worker: Any) -> None:
        """A cold shutdown does not come to its end in order: leave the roster now."""
        if self._agent is not None:
            self._agent.stop()


def _make_revoke_durable(agent: Agent) -> None:
    """Let Celery's own ``revoke`` store the ids before Celery takes them."""
    original = Panel.data["revoke"]
    original = getattr(original, "stem_original", original)

    @functools.wraps(original)
    def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:
        ids = [task_id] if isinstance(task_id, str) else [str(one) for one in task_id or ()]
        try:
            agent.make_durable(ids, terminate)
        except StemError as error:
            logger.error("revoke of %d ids is not durable: %s", len(ids), error)
        return original(state, task_id, terminate=terminate, signal=signal, **kwargs)

    revoke.stem_original = original  # type: ignore[attr-defined]
    Panel.data["revoke"] = revoke
