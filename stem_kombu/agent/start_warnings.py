"""What threatens a worker's promises from outside, said once when it starts: what ``stem health`` says of the same places."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from stem_kombu.backends.base import Backend
from stem_kombu.concurrency import threads
from stem_kombu.control.server.worker_view import WorkerIdentity
from stem_kombu.errors import StemError
from stem_kombu.stores.base import RevokeStore
from stem_kombu.task import TaskRegistry
from stem_kombu.transports.base import Transport
from stem_kombu.transports.conditions import conditions_at, forgets_held

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)

#: How many tasks a warning names.
_NAMED = 5


def warn_of_places(
    identity: WorkerIdentity,
    transport: Transport,
    broker: Connection,
    store: RevokeStore,
    backend: Backend | None,
    tasks: TaskRegistry,
) -> threads.Thread:
    """Check the worker's broker (a template, which is cloned) for its ``tasks``, its store and its backend in a thread of its
    own, and log a warning a sentence; returns that thread. The worker runs meanwhile: what is full or read-only may be mended
    while it waits."""
    namespace = identity.namespace
    places = {"broker": partial(_of_broker, transport, broker, tasks), "revoke store": partial(store.check, namespace)}
    if backend is not None:
        places["backend"] = partial(backend.check, namespace)
    thread = threads.Thread(target=_ask, args=(places, identity.worker), name="stem-start-warnings", daemon=True)
    thread.start()
    return thread


def _of_broker(transport: Transport, broker: Connection, tasks: TaskRegistry) -> list[str]:
    lost = [forgets_held(transport.name)] if transport.capabilities.forgets_held else []
    return lost + _held_too_long(transport, tasks) + conditions_at(broker)


def _held_too_long(transport: Transport, tasks: TaskRegistry) -> list[str]:
    """Of tasks whose own time limit is above what the broker allows. Those without a limit are not named: they would be most."""
    most = transport.capabilities.consumer_timeout
    named = sorted(one.name for one in tasks if most is not None and (one.options.time_limit or 0.0) > most)
    if most is None or not named:
        return []
    shown = ", ".join(named[:_NAMED]) + (f" and {len(named) - _NAMED} more" if len(named) > _NAMED else "")
    sentence = (
        f"the time limit of {shown} is above RabbitMQ's usual consumer_timeout of {most / 60:g} minutes, after which a "
        "message is delivered again while its task still runs; raise consumer_timeout there if that was not done yet"
    )
    return [sentence]


def _ask(places: Mapping[str, Callable[[], list[str]]], worker: str) -> None:
    for name, check in places.items():
        try:
            sentences = check()
        except StemError as error:
            sentences = [f"{error}; {error.hint}" if error.hint else str(error)]
        except Exception:
            # The boundary to drivers: the worker is not to end because a warning could not be found out.
            logger.exception("worker %s: the %s can't be checked", worker, name)
            continue
        for sentence in sentences:
            logger.warning("worker %s: %s: %s", worker, name, sentence, extra={"worker": worker})
