"""A step of Celery's worker that starts and stops Stem at the right moments."""

from __future__ import annotations

import functools
import gc
import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import bootsteps, current_app, signals
from celery.app.trace import build_tracer
from celery.worker import state as worker_state
from celery.worker.control import Panel

from stem_kombu.celery import pool_size, task_api
from stem_kombu.celery.agent import CeleryAgent
from stem_kombu.celery.configuration import settings_of
from stem_kombu.celery.recorded_reasons import with_reasons
from stem_kombu.celery.registry import guard_all
from stem_kombu.celery.shared_stop_table import SharedStopTable
from stem_kombu.control.stamped_rules import stamps_of
from stem_kombu.errors import BroadcastUnsupported, ConfigurationError, StemError
from stem_kombu.measures import Totals

if TYPE_CHECKING:
    from celery.worker import WorkController

logger = logging.getLogger(__name__)

#: Entries of the stop table for each process or thread that runs tasks, at least so many in all.
_ENTRIES_EACH, _ENTRIES = 4, 4 * pool_size.MOST
#: Key of Celery's configuration under which spawned children find the file of the stop table.
_STOP_TABLE = "stem_board"
#: Verbs of Celery's that revoke.
_REVOKING = ("revoke", "terminate", "revoke_by_stamped_headers")
#: Verbs of Celery's that count as control and do no more than make a worker speak.
_HARMLESS = frozenset({"enable_events", "heartbeat"})


class StemStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery publishes no types
    """Stem in one Celery worker."""

    # After the pool, whose children must not inherit our sockets; Celery's consumer is always the last.
    requires = frozenset({"celery.worker.components:Pool"})
    name = "stem"

    def __init__(self, worker: WorkController, **_: object) -> None:
        self._agent: CeleryAgent | None = None
        self._stop_table: SharedStopTable | None = None
        worker.stem = None

    def create(self, worker: WorkController) -> StemStep:
        """Before the pool starts its children: install the stop table and make tasks look at it."""
        spawned = getattr(worker, "pool_start_method", "fork") != "fork" or worker.app.IS_macOS
        stop_table = self._stop_table = SharedStopTable(
            max(_ENTRIES, _ENTRIES_EACH * int(worker.concurrency or 1)), in_file=spawned
        )
        if stop_table.path is not None:
            # The configuration travels to children that inherit nothing else.
            worker.app.conf[_STOP_TABLE] = str(stop_table.path)
        task_api.install(stop_table)
        totals = Totals()
        try:
            settings = settings_of(worker.app, **getattr(worker.app, "stem_options", {}))
            self._agent = worker.stem = CeleryAgent(worker, settings, stop_table, totals)
        except BaseException as error:
            stop_table.close()
            if isinstance(error, StemError):
                raise _told(error) from error
            raise
        guard_all(worker.app, self._agent.parts)
        if not spawned and _forks(worker.pool):
            _keep_shared()
        return self

    def start(self, worker: WorkController) -> None:
        """Return once everything revoked is known and commands reach it; nothing has been consumed yet."""
        assert self._agent is not None
        try:
            self._agent.start()
        except BaseException as error:
            self._end()
            if isinstance(error, BroadcastUnsupported) and not self._agent.settings.durable:
                # Neither commands nor revocations can reach this worker: as little as Celery's own do there.
                logger.warning("stem stands aside: %s (%s)", error, error.hint)
                self._agent = worker.stem = None
                return
            if isinstance(error, StemError):
                raise _told(error) from error
            raise
        if self._agent.verifier.keyring is None:
            _make_revoke_durable(self._agent)
        else:
            _refuse_unsigned(self._agent)

        # The very end, after the pool has finished what it ran: until then commands are answered.
        def on_shutdown(**_: object) -> None:
            self._end()

        signals.worker_shutdown.connect(on_shutdown, weak=False, dispatch_uid="stem-kombu")

        _show_soft_shutdown(worker, self._agent)

    def close(self, worker: object) -> None:
        if self._agent is not None:
            self._agent.drain()

    def stop(self, worker: object) -> None:
        """Nothing yet: see :meth:`start`."""

    def terminate(self, worker: object) -> None:
        """A cold shutdown does not come to its end in order: leave the roster now."""
        self._end()

    def _end(self) -> None:
        """Now and for good. The stop table outlives its agent, which may be started again."""
        if self._agent is not None:
            self._agent.stop()
        if self._stop_table is not None:
            self._stop_table.close()


def _forks(pool: object) -> bool:
    prefork = sys.modules.get("celery.concurrency.prefork")
    return prefork is not None and isinstance(pool, prefork.TaskPool)


def _keep_shared() -> None:
    """Let children go on sharing what they are about to inherit: the collector writes to each object that it looks at, and so
    gives each child a copy of nearly all of it."""
    gc.collect()  # what is garbage now is not looked for again
    gc.freeze()


def _told(error: StemError) -> SystemExit:
    logger.critical("stem can't start: %s%s", error, f" ({error.hint})" if error.hint else "")
    return SystemExit(2 if isinstance(error, ConfigurationError) else 74)


def _show_soft_shutdown(worker: WorkController, agent: CeleryAgent) -> None:
    """Have the worker drain, for those who ask, while Celery from 5.5 on waits before a cold shutdown."""
    wait = getattr(worker, "wait_for_soft_shutdown", None)
    if wait is None or hasattr(wait, "stem_original"):
        return

    @functools.wraps(wait)
    def draining() -> object:
        agent.drain()
        return wait()

    draining.stem_original = wait  # type: ignore[attr-defined]
    worker.wait_for_soft_shutdown = draining


def join_spawned(hostname: str | None) -> None:
    """In a child that was not forked: open the stop table that its worker installed, and make its tasks look at it.

    ``hostname`` is the worker's.
    """
    app = current_app._get_current_object()
    path = app.conf.get(_STOP_TABLE)
    if path is None or task_api.is_installed():
        return
    task_api.install(SharedStopTable.opened(path))
    for name, task in app.tasks.items():
        task_api.guarded(task)
        # Celery has looked at task.run already.
        task.__trace__ = build_tracer(name, task, app.loader, hostname, app=app)


def _refuse_unsigned(agent: CeleryAgent) -> None:
    """Where there are keys: let Celery's own remote control change nothing, as it is not signed."""
    kinds = {known: verb.type for name, verb in Panel.meta.items() for known in (name, verb.alias)}
    for name, function in list(Panel.data.items()):
        if kinds.get(name) == "inspect" or name in _HARMLESS:
            continue

        @functools.wraps(getattr(function, "stem_original", function))
        def refused(state: object, *args: object, _name: str = name, **kwargs: object) -> object:
            agent.refused.drop("unsigned", f"{_name!r}: it is not signed")
            if _name in _REVOKING:
                agent.hydration.nudge()  # an application with a key has signed and stored it before it sent this
            return {
                "error": f"refused: {_name} is not signed, and this fleet obeys signed commands only (stem worker …)"
            }

        refused.stem_original = getattr(function, "stem_original", function)  # type: ignore[attr-defined]
        Panel.data[name] = refused


def _make_revoke_durable(agent: CeleryAgent) -> None:
    """Let Celery's own ``revoke`` and ``terminate`` store the ids before Celery takes them, and say whether they are."""
    original, terminates, by_stamp = (
        getattr(Panel.data[name], "stem_original", Panel.data[name]) for name in _REVOKING
    )

    @functools.wraps(original)
    def revoke(state: Any, task_id: Any, terminate: object = False, signal: object = None, **kwargs: object) -> Any:
        terminate = bool(terminate)  # Flower's API sends 0 and null
        ids = [task_id] if isinstance(task_id, str) else [str(one) for one in task_id or ()]
        cooperatively = bool(terminate) and not agent.kills
        trouble = _stored(partial(agent.make_durable, ids, terminate=cooperatively), f"{len(ids)} ids")
        held = [request for one in ids if (request := worker_state.requests.get(one)) is not None]
        with with_reasons([state.app.backend, *(request.task.backend for request in held)], agent.why):
            answer = original(state, task_id, terminate=terminate and not cooperatively, signal=signal, **kwargs)
        if cooperatively:
            answer = {"ok": f"terminate at their next checkpoint: {', '.join(ids)}"}
        return _saying(answer, trouble)

    @functools.wraps(terminates)
    def terminate(state: object, signal: object, task_id: object, **kwargs: object) -> object:
        return revoke(state, task_id, terminate=True, signal=signal)  # as Celery's own does

    @functools.wraps(by_stamp)
    def revoke_by_stamped_headers(
        state: object, headers: object, terminate: object = False, signal: object = None, **kwargs: object
    ) -> object:
        stamps, terminate = stamps_of(headers), bool(terminate)
        cooperatively = terminate and not agent.kills
        trouble = _stored(partial(agent.make_stamps_durable, stamps, terminate=cooperatively), f"{len(stamps)} stamps")
        answer = by_stamp(state, headers, terminate=terminate and not cooperatively, signal=signal, **kwargs)
        return _saying(answer, trouble)

    revoke.stem_original = original  # type: ignore[attr-defined]
    terminate.stem_original = terminates  # type: ignore[attr-defined]
    revoke_by_stamped_headers.stem_original = by_stamp  # type: ignore[attr-defined]
    Panel.data |= dict(zip(_REVOKING, (revoke, terminate, revoke_by_stamped_headers), strict=True))


def _stored(store: Callable[[], str | None], what: str) -> str | None:
    """Why it is not durable yet, ``None`` when it is."""
    try:
        return store()
    except StemError as error:
        logger.error("revoke of %s is not durable: %s", what, error)
        return f"not durable yet: {error}"


def _saying(answer: dict[str, object], trouble: str | None) -> dict[str, object]:
    """Celery's answer, as it is without Stem where nothing is wrong."""
    if trouble is None:
        return answer
    if "ok" not in answer:
        return {**answer, "durable": False}
    return {**answer, "ok": f"{answer['ok']} ({trouble})", "durable": False}
