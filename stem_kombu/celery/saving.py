"""Storing what Celery's own ``revoke`` asks for, without holding up the thread that asks: Celery's event loop, or a web
application's request.

A store that answers is waited for. One that does not is waited for once, for a moment; from then on what is asked for
queues here, is answered as not durable yet, and is stored as soon as the store answers again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet  # before Python 3.11 it is not the built-in one
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.errors import StemError, StoreError
from stem_kombu.transports.connections import backoff

logger = logging.getLogger(__name__)

#: Revocations that may wait; more are only in the memory of the workers that are up.
MOST_WAITING = 10_000
#: Revocations that are stored together.
_BATCH = 1000


#: What is stored: a revocation by id, or by a stamp.
Draft = TypeVar("Draft")


@dataclass(slots=True, eq=False)
class _Asked(Generic[Draft]):
    drafts: Sequence[Draft]
    stored: Future[None] = field(default_factory=Future)


class Saver(Generic[Draft]):
    """Calls ``save(drafts)`` in a thread of its own, which lasts as long as something is to be stored. A :class:`StoreError` is
    tried again; any other :class:`StemError` is the answer to those who asked. Safe to use from several threads.

    ``patience`` is the longest wait of a caller in seconds, while the store answers.
    """

    def __init__(self, save: Callable[[Sequence[Draft]], object], *, patience: float, clock: Clock = SYSTEM) -> None:
        self._save = save
        self._patience = patience
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: list[_Asked[Draft]] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        #: Why the store did not take the last batch, ``None`` while it answers.
        self._trouble: str | None = None

    def save(self, drafts: Sequence[Draft]) -> str | None:
        """``None`` when the store has them, else why they are not durable yet. Raises what ``save`` raises for good."""
        if not drafts:
            return None
        asked: _Asked[Draft] = _Asked(drafts)
        with self._changed:
            if sum(len(other.drafts) for other in self._waiting) + len(drafts) > MOST_WAITING:
                return f"{MOST_WAITING} others wait for the revoke store already; these are not stored"
            self._waiting.append(asked)
            trouble, self._closed = self._trouble, False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="stem-celery-save", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        try:
            asked.stored.result(0.0 if trouble else self._patience)
        except NotYet:
            with self._changed:
                if self._trouble is None and not asked.stored.done():
                    self._trouble = f"the revoke store has not answered within {self._patience:g} s"
                return self._trouble
        return None

    def close(self, timeout: float) -> None:
        """Give what waits ``timeout`` seconds to be stored, then let it go and say so."""
        deadline = self._clock.monotonic() + timeout
        with self._changed:
            while self._waiting and (left := deadline - self._clock.monotonic()) > 0:
                self._changed.wait(left)
            lost, self._waiting = sum(len(asked.drafts) for asked in self._waiting), []
            self._closed, thread = True, self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.1, deadline - self._clock.monotonic()))
        if lost:
            logger.error("revocations that were not stored: %d (%s)", lost, self._trouble or "there was no time left")

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    return
                batch = self._next_batch()
            if self._stored(batch):
                failures = 0
                continue
            failures += 1
            with self._changed:
                self._changed.wait_for(lambda: self._closed, backoff(failures, longest=timeouts.GUEST_SAVE_LONGEST))

    def _next_batch(self) -> list[_Asked[Draft]]:
        batch, size = [self._waiting[0]], len(self._waiting[0].drafts)
        for asked in self._waiting[1:]:
            size += len(asked.drafts)
            if size > _BATCH:
                break
            batch.append(asked)
        return batch

    def _stored(self, batch: list[_Asked[Draft]]) -> bool:
        """Whether the batch needs no further attempt: it is stored, or refused for good."""
        failure: BaseException | None = None
        try:
            self._save([draft for asked in batch for draft in asked.drafts])
        except StoreError as error:
            with self._changed:
                if self._trouble is None:
                    logger.warning("revocations through Celery are not durable yet: %s", error)
                self._trouble = str(error)
            return False
        except StemError as error:
            failure = error
        except Exception as error:
            # The boundary of a thread on which every later revocation depends.
            logger.exception("%d revocations can't be stored", len(batch))
            failure = error
        with self._changed:
            late = self._trouble is not None
            self._trouble = None
            self._waiting = [asked for asked in self._waiting if asked not in batch]
            self._changed.notify_all()
        for asked in batch:
            if failure is None:
                asked.stored.set_result(None)
            else:
                asked.stored.set_exception(failure)
        if late:
            said = "are stored now" if failure is None else f"are not stored: {failure}"
            logger.warning("revocations of %d tasks, which had waited for the revoke store, %s",
                           sum(len(asked.drafts) for asked in batch), said)  # fmt: skip
        return True
