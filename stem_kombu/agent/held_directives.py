"""The directives that this worker knows, and what they ask of it now (G24).

Read without a lock: what is asked of each queue is a mapping that is replaced as a whole. Ends are judged by the store's clock
as it is known here, so that a pause ends without the store and without the broker (G23).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from stem_kombu import timeouts
from stem_kombu.concurrency import threads
from stem_kombu.control.server.worker_view import WorkerIdentity
from stem_kombu.directive import Directive, Key, Kind, next_end, winner


class HeldDirectives:
    """Of one worker. ``now()`` is the store's time. ``ignores``: the worker obeys none, and says so."""

    def __init__(
        self,
        identity: WorkerIdentity,
        queues: Sequence[str],
        now: Callable[[], datetime],
        *,
        ignores: bool = False,
    ) -> None:
        self.namespace, self.worker = identity.namespace, identity.worker
        self.queues = tuple(queues)
        self.now = now
        self.ignores = ignores
        #: The paused queues of this worker, each with the directive that says so.
        self.paused: Mapping[str, Directive] = {}
        #: The highest version of all that came.
        self.version = 0
        self._lock = threads.Lock()
        self._held: dict[Key, Directive] = {}
        self._counted_at: datetime | None = None

    def take(self, directives: Iterable[Directive]) -> None:
        """Know these as well, whatever order they come in; :meth:`update` lets them count."""
        with self._lock:
            for one in directives:
                held = self._held.get(one.key)
                if held is None or one.version > held.version:
                    self._held[one.key] = one
                self.version = max(self.version, one.version)

    def version_of(self, key: Key) -> int:
        """The version of that key that is known, 0 for none."""
        held = self._held.get(key)
        return 0 if held is None else held.version

    def is_again(self, one: Directive) -> bool:
        """Whether that is the directive of its key that is known, under a later version: the store had lost it, and was given
        it back."""
        held = self._held.get(one.key)
        return held is not None and replace(one, version=held.version, issued_at=held.issued_at) == held

    def update(self) -> frozenset[str]:
        """Let what counts now count; the queues that are paused and were not."""
        with self._lock:
            self._counted_at = self.now()
            self._forget_the_old()
            before, self.paused = self.paused, self._pauses()
            return frozenset(self.paused.keys() - before.keys())

    def winner(self, kind: Kind, subject: str | None = None) -> Directive | None:
        """The directive that counts here, ``None`` where the worker's own value does."""
        with self._lock:
            return None if self.ignores else winner(self._held.values(), kind, self.worker, subject, self.now())

    def log_levels(self) -> dict[str | None, Directive]:
        """Of each logger that a directive names (``None``: the root) the one that counts here."""
        with self._lock:
            held = [one for one in self._held.values() if one.kind is Kind.LOG_LEVEL and not self.ignores]
            now = self.now()
        found = {}
        for subject in {one.subject for one in held}:
            # A directive is about the logger that it names; what is below inherits, as logging does it.
            exact = [one for one in held if one.subject == subject]
            if (won := winner(exact, Kind.LOG_LEVEL, self.worker, subject, now)) is not None:
                found[subject] = won
        return found

    def next_end(self) -> datetime | None:
        """When the next ends of those that counted at the last :meth:`update`, by the store's clock; it may have passed."""
        with self._lock:
            return next_end(self._held.values(), self._counted_at or self.now())

    def pauses(self) -> dict[str, Directive | None]:
        """Of each queue the pause or exemption that counts here, ``None`` where there is neither."""
        return {queue: self.winner(Kind.PAUSE, queue) for queue in self.queues}

    def _pauses(self) -> dict[str, Directive]:
        if self.ignores or not self._held:
            return {}
        held, now = self._held.values(), self.now()
        won = {queue: winner(held, Kind.PAUSE, self.worker, queue, now) for queue in self.queues}
        return {queue: one for queue, one in won.items() if one is not None and one.value is True}

    def _forget_the_old(self) -> None:
        """What has ended or was cleared stays known for a while: an older record of its key may still come."""
        since = self.now() - timedelta(seconds=timeouts.DIRECTIVE_REMEMBERED)
        over = [one for one in self._held.values() if one.was_over(since)]
        for one in over:
            del self._held[one.key]
