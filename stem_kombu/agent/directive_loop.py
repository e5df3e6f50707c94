"""Lets directives count when they come, from the store and from broadcasts, and when they end (G21, G23). Its host carries them
out: Stem's own worker, or a guest in Celery's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import timedelta

from stem_kombu import timeouts
from stem_kombu.agent.held_directives import HeldDirectives
from stem_kombu.agent.record_sync import Subscriber
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.rounds import Rounds
from stem_kombu.control.directive_writer import read_directives
from stem_kombu.control.server.worker_view import Obeyed, Setting
from stem_kombu.control.verification import Verifier
from stem_kombu.directive import PLACE, Directive
from stem_kombu.stores.records import ControlRecord

logger = logging.getLogger(__name__)


class DirectiveLoop:
    """Of one worker. ``update()`` has the host do what ``held`` asks for now; it is called by one thread at a time, and with
    nothing new as well. ``verifier`` knows who may give directives."""

    def __init__(self, held: HeldDirectives, verifier: Verifier, update: Callable[[], Obeyed]) -> None:
        self._held, self._verifier, self._update = held, verifier, update
        #: What hands records of the store over.
        self.subscribers: dict[str, Subscriber] = {PLACE: self.take}
        self._lock = threads.Lock()
        self._background = Rounds(self._look, "stem-directives")

    # -- from any thread ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Be ready: the thread begins with the first directive that has an end."""
        self._background.start_when_needed()
        self._wake()

    def stop(self) -> None:
        """Directives end no more by themselves. May be called twice, and before a start."""
        self._background.stop()

    def take(self, records: Sequence[ControlRecord]) -> None:
        """Obey what the store holds."""
        self.obey(read_directives(records, self._held.namespace))

    def obey(self, directives: Iterable[Directive]) -> Obeyed:
        """Know these as well, and have the host obey what counts; those that no key of the fleet signed are refused."""
        with self._lock:
            # What is put back says that it was asked for before itself.
            asked: list[Directive] = []
            again: list[Directive] = []
            for one in directives:
                (again if self._held.is_again(one) else asked).append(one)
            found, refused = self._verifier.proven_directives(asked, self._held.version_of)
            self._held.take([*again, *found])
            obeyed = self._update()
        self._wake()
        return obeyed._replace(version=self._held.version, refused=tuple(refused))

    # -- the thread -----------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._held.next_end() is None:
            return
        self._background.needed()
        self._background.wake()

    def _look(self) -> float | None:
        with self._lock:
            self._update()
        if (end := self._held.next_end()) is None:
            return None
        left = (end - self._held.now()) / timedelta(seconds=1)
        return min(max(left, 0.001), timeouts.DIRECTIVE_LOOK)


def pause_settings(held: HeldDirectives) -> dict[str | None, Setting]:
    """Of each queue of the worker whether it is paused, and which directive says so."""
    return {
        queue: Setting(False if one is None else one.value, False, directive=one)
        for queue, one in held.pauses().items()
    }


def level_settings(held: HeldDirectives, own: str) -> dict[str | None, Setting]:
    """From which level on the worker (``None``) and single loggers log; ``own`` counts without a directive."""
    levels = held.log_levels()
    root = levels.get(None)
    return {
        None: Setting(own if root is None else root.value, own, directive=root),
        **{name: Setting(one.value, None, directive=one) for name, one in levels.items() if name is not None},
    }


def log_pauses(held: HeldDirectives, before: Collection[str]) -> None:
    """Say in the log which queues are paused now, and which were ``before`` and are not any more."""
    where, paused = {"worker": held.worker}, held.paused
    for queue in sorted(paused.keys() - before):
        one = paused[queue]
        who, why = one.requested_by or "-", one.reason or "no reason given"
        logger.warning("queue %s is paused by %s: %s", queue, who, why, extra={**where, "queue": queue})
    for queue in sorted(set(before) - paused.keys()):
        logger.warning("queue %s is not paused any more", queue, extra={**where, "queue": queue})
