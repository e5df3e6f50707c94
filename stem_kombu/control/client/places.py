"""Where a client reads and writes beside the broker: roster, revoke store and result backend, each opened on first use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Protocol, TypeVar

from stem_kombu.backends.base import Backend, Roster
from stem_kombu.backends.registry import open_backend, open_roster
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.thread_pool import ThreadPool
from stem_kombu.control.audit import Note
from stem_kombu.control.auditor import Auditor
from stem_kombu.errors import ConfigurationError, StoreError, StoreLate, StoreUnavailable
from stem_kombu.fields import shown
from stem_kombu.outcome import TaskRecord
from stem_kombu.settings import Settings
from stem_kombu.signing.keyring import Keyring
from stem_kombu.stores.base import RevokeStore

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Calls that may be under way at once, in threads that a store or a backend which does not answer holds up.
_CALLS = 8


class Configured(Protocol):
    """An application, or whatever else has settings."""

    @property
    def settings(self) -> Settings: ...


def settings_of(target: Configured | Settings) -> Settings:
    """The settings of an application, or these; raises :class:`ConfigurationError` for what has none."""
    found = target if isinstance(target, Settings) else getattr(target, "settings", None)
    if not isinstance(found, Settings):
        raise ConfigurationError(
            f"a control client needs an application or Settings, not {shown(target)} ({type(target).__name__})",
            hint="give it your Stem, or Stem('ops', broker=URL, backend=URL)",
        )
    return found


class ClientPlaces:
    """Safe from any thread; none of them connects before it is asked for something."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._roster: Roster | None = None
        self._store: RevokeStore | None = None
        self._backend: Backend | None = None
        self.renew()

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`: no thread of the parent is here, to let go of the lock."""
        self._lock = threads.Lock()
        self._calls = ThreadPool("stem-places", _CALLS)

    def roster(self) -> Roster:
        """Who is alive. It gives up after half of a command's time, which leaves the other half for the workers (G13)."""
        with self._lock:
            if self._roster is None:
                source, settings = self._settings.roster, self._settings
                self._roster = open_roster(
                    source.value, name=source.name, tls=settings.tls, patience=settings.control_timeout / 2
                )
            return self._roster

    def revoke_store(self) -> RevokeStore:
        """The store that workers read."""
        from stem_kombu.stores.registry import open_revoke_store

        with self._lock:
            if self._store is None:
                source, settings = self._settings.revoke_store, self._settings
                self._store = open_revoke_store(
                    source.value, name=source.name, tls=settings.tls, patience=settings.control_timeout
                )
            return self._store

    def auditor(self, keyring: Keyring | None) -> Auditor:
        """What stores changes with entries in the audit."""
        settings = self._settings
        return Auditor(self.revoke_store(), settings.namespace, keyring, keep=settings.audit_keep)

    def noted(self, note: Note, keyring: Keyring | None, *, within: float) -> bool:
        """Whether the audit has this entry after so many seconds: not where no revoke store is configured, or where it is away or
        slow, for the one deadline of a command holds then as well (G13). What comes later than that still gets there."""
        try:
            auditor = self.auditor(keyring)
        except ConfigurationError:
            return False
        try:
            return self._calls.call(partial(auditor.note, note), within) is not None
        except (TimeoutError, CancelledError):
            logger.warning(
                "not audited: %s of %s: the revoke store did not answer in time", note.action, note.requester
            )
            return False

    def in_time(self, function: Callable[[], T], within: float, place: str | None = None, *, stores: bool = True) -> T:
        """What the function returns, which asks the revoke store, or that place, within so many seconds: one deadline, however
        many answers it takes (G13). Raises as it does, and :class:`StoreLate` after that time. ``stores``: it may store."""
        try:
            return self._calls.call(function, within)
        except CancelledError as error:
            raise StoreUnavailable(f"{place or self._store_named()} was not asked: the client is closed") from error
        except TimeoutError as error:
            yet = "; what was being stored may be stored yet" if stores else ""
            counts = ": what is stored already counts once" if stores else ""
            raise StoreLate(
                f"{place or self._store_named()} did not answer within {within:.3g} s{yet}",
                hint=f"repeat the command with a longer timeout{counts}",
            ) from error

    def _store_named(self) -> str:
        return f"revoke store {self.revoke_store().url}"

    def task_records(self, task_ids: Sequence[str], within: float) -> Mapping[str, TaskRecord | None] | None:
        """What the result backend has of these tasks; ``None`` where there is no backend, or none that answers in so many
        seconds (G13)."""
        backend = self.backend()
        if backend is None or not task_ids:
            return None if backend is None else {}
        try:
            return self._calls.call(partial(backend.find, task_ids), within)
        except (StoreError, TimeoutError, CancelledError) as error:
            logger.debug("task states can't be read: %s", error)
            return None

    def backend(self) -> Backend | None:
        """The task states, ``None`` where there is no result backend."""
        source = self._settings.backend
        with self._lock:
            if self._backend is None and source is not None:
                self._backend = open_backend(source.value, name=source.name, tls=self._settings.tls)
            return self._backend

    def close(self) -> None:
        """Let all connections go; those of a call that is still under way once it has ended."""
        has_ended = self._calls.stop()
        with self._lock:
            held, self._roster, self._store, self._backend = (
                (self._roster, self._store, self._backend), None, None, None,
            )  # fmt: skip
        opened = [one for one in held if one is not None]
        if has_ended:
            _close(opened)
        else:  # an embedded place is closed behind its lock, which that call may hold
            threads.Thread(target=_close, args=(opened,), name="stem-places-close", daemon=True).start()


def _close(places: Sequence[Roster | RevokeStore | Backend]) -> None:
    for one in places:
        one.close()
