"""What threatens a worker's promises from outside, said once when it starts: what ``stem health`` says of the same places."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from stem_kombu.backends.base import Backend
from stem_kombu.control.server.worker_view import WorkerIdentity
from stem_kombu.errors import StemError
from stem_kombu.stores.base import RevokeStore
from stem_kombu.transports.base import Transport
from stem_kombu.transports.conditions import conditions_at, forgets_held

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)


def warn_of_places(
    identity: WorkerIdentity, transport: Transport, broker: Connection, store: RevokeStore, backend: Backend | None
) -> threading.Thread:
    """Check the worker's broker (a template, which is cloned), store and backend in a thread of its own, and log a warning a
    sentence; returns that thread. The worker runs meanwhile: what is full or read-only may be mended while it waits."""
    namespace = identity.namespace
    places = {"broker": partial(_of_broker, transport, broker), "revoke store": partial(store.check, namespace)}
    if backend is not None:
        places["backend"] = partial(backend.check, namespace)
    thread = threading.Thread(target=_ask, args=(places, identity.worker), name="stem-start-warnings", daemon=True)
    thread.start()
    return thread


def _of_broker(transport: Transport, broker: Connection) -> list[str]:
    lost = [forgets_held(transport.name)] if transport.capabilities.forgets_held else []
    return lost + conditions_at(broker)


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
