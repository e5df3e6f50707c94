"""What one process does for one broker file in the background: renew leases, sweep up after the dead, wake neighbours.

The keeper has its own thread and its own connection to the file, so that leases are renewed whatever the threads that
consume are doing. The thread runs only while some connection of this process owns something.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from pathlib import Path
from typing import Protocol

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.errors import BrokerError
from stem_kombu.transports.sqlite import owner_locks as owners
from stem_kombu.transports.sqlite.database import Database, Identity
from stem_kombu.transports.sqlite.doorbell import Doorbell, WakeUp
from stem_kombu.transports.sqlite.errors import EmbeddedBrokerUnavailable
from stem_kombu.transports.sqlite.options import Options
from stem_kombu.transports.sqlite.sweeping import sweep

logger = logging.getLogger(__name__)


class Member(Protocol):
    """A connection as the keeper sees it."""

    options: Options
    wake_up: WakeUp

    def flush_late(self) -> None:
        """Write acknowledgements that have waited long enough."""

    def fail(self, error: BrokerError) -> None:
        """Raise this from now on in whoever uses the connection."""

    def abandon(self) -> None:
        """A forked child's end of it: forget the file without closing it."""

    def flush(self) -> None:
        """Write all acknowledgements that wait."""


class LeaseKeeper:
    """See the module. Safe to call from any thread."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        self._lock = threading.Lock()
        self._locks = owners.OwnerLocks(path)  # has no notion of threads: only used under the lock
        self._members: list[weakref.ref[Member]] = []
        self._owned: dict[int, weakref.ref[Member]] = {}
        self._events: tuple[WakeUp, ...] = ()
        self._bell = Doorbell(path)
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._swept_at = float("-inf")
        self._complained_at = float("-inf")

    def admit(self, member: Member) -> None:
        """Wake this connection from now on, for as long as somebody refers to it."""
        with self._lock:
            self._members.append(weakref.ref(member))
            self._bell.open()
            self._count()

    def register(self, member: Member, database: Database) -> int:
        """Make the connection an owner whose lease is renewed from now on; returns the owner's id."""
        with self._lock:
            with database.write() as sql:
                owner_id = owners.register(sql, self._locks, member.options.visibility_timeout, SYSTEM.now())
            self._owned[owner_id] = weakref.ref(member)
            if self._thread is None:
                rounds = _Rounds(self, member.options)
                thread = threading.Thread(target=rounds.run, name=f"stem-keeper {self.path.name}", daemon=True)
                thread.start()
                self._thread = thread
        self._wanted.set()  # a shorter visibility timeout wants shorter rounds
        return owner_id

    def dismiss(self, member: Member, owner_id: int | None) -> None:
        """The connection ends. Its owner counts as dead from here on, if its row is still there."""
        with self._lock:
            self._members = [ref for ref in self._members if ref() is not member]
            self._count()
            if owner_id is not None:
                self._owned.pop(owner_id, None)
                self._locks.let_go(owner_id)
            if not self._members:
                self._locks.close()
                self._bell.close()
            leaving = self._thread if not self._owned else None
        self._wanted.set()
        if leaving is not None and leaving is not threading.current_thread():
            leaving.join(1.0)  # so that whoever closes the last connection may remove the file

    def announce(self) -> None:
        """Tell the other connections, of this process and of others, that there may be something new."""
        for event in self._events:
            event.set()
        self._bell.ring()

    def acknowledgements_wait(self) -> None:
        """Have :meth:`Member.flush_late` called soon."""
        self._wanted.set()

    def members(self) -> list[Member]:
        """The connections that are open and that somebody refers to."""
        with self._lock:
            return [member for ref in self._members if (member := ref()) is not None]

    def sweep(self, database: Database, *, lapsed: bool = False, at_most_every: float = 0.0) -> None:
        """Sweep up after the dead, and wake this process's connections if that was needed."""
        with self._lock:
            if SYSTEM.monotonic() - self._swept_at < at_most_every:
                return
            found = sweep(database, self._locks, SYSTEM.now(), lapsed=lapsed)
            self._swept_at = SYSTEM.monotonic()
        if found:
            self.announce()

    def abandon(self) -> None:
        """A forked child's end of it: nothing here is the child's."""
        for ref in self._members:
            member = ref()
            if member is not None:
                member.abandon()
        self._locks.close()
        self._bell.abandon()

    def idle(self) -> bool:
        """Whether nobody uses it; its lock file is closed then."""
        with self._lock:
            if any(ref() is not None for ref in self._members) or self._thread is not None:
                return False
            self._locks.close()
            self._bell.close()
            return True

    # -- for the thread

    def owned(self) -> dict[int, Member]:
        """Owners to renew; one whose connection was dropped without being closed is let go, as if it were dead."""
        with self._lock:
            alive = {owner_id: member for owner_id, ref in self._owned.items() if (member := ref()) is not None}
            for owner_id in self._owned.keys() - alive.keys():
                del self._owned[owner_id]
                self._locks.let_go(owner_id)
            self._members = [ref for ref in self._members if ref() is not None]
            self._count()
            return alive

    def leave(self) -> bool:
        """Whether the thread may end, as nobody owns anything; if so, the next owner starts another."""
        with self._lock:
            if self._owned:
                return False
            self._thread = None
            return True

    def wait(self, seconds: float) -> bool:
        """Whether somebody wanted the thread before the time was over."""
        wanted = self._wanted.wait(max(0.0, seconds))
        self._wanted.clear()
        return wanted

    def complain(self, error: BrokerError) -> None:
        """Log it, once a minute at most."""
        if SYSTEM.monotonic() - self._complained_at >= timeouts.KEEPER_LOG:
            self._complained_at = SYSTEM.monotonic()
            logger.error("leases and acknowledgements have to wait: %s", error)

    def _count(self) -> None:
        self._events = tuple(member.wake_up for ref in self._members if (member := ref()) is not None)


class _Rounds:
    """The keeper's thread: a round every 0.4 s or sooner, and acknowledgements in between."""

    def __init__(self, keeper: LeaseKeeper, options: Options) -> None:
        self._keeper = keeper
        self._options = options
        self._database: Database | None = None
        self._renewed_at = SYSTEM.now()
        self._last_round_at = SYSTEM.now()
        self._patient_until = SYSTEM.now() + min(timeouts.KEEPER_SUSPENDED, options.visibility_timeout)
        self._space_at = SYSTEM.monotonic() + timeouts.EMBEDDED_VACUUM

    def run(self) -> None:
        next_round = SYSTEM.monotonic()
        while True:
            wanted = self._keeper.wait(next_round - SYSTEM.monotonic())
            if self._keeper.leave():
                break
            if wanted:
                SYSTEM.sleep(timeouts.ACK_GATHERING)
            try:
                next_round = self._once(next_round)
            except Exception:
                # The boundary of the thread: were it to die, every lease of this process would run out.
                logger.exception("embedded broker %s: the lease keeper failed and continues", self._keeper.path)
                next_round = SYSTEM.monotonic() + timeouts.KEEPER_ROUND
        self._close()

    def _once(self, next_round: float) -> float:
        """When the next round is due."""
        for member in self._keeper.members():
            try:
                member.flush_late()
            except BrokerError as error:
                self._keeper.complain(error)
        owned = self._keeper.owned()
        lease = min((m.options.visibility_timeout for m in owned.values()), default=self._options.visibility_timeout)
        pause = min(timeouts.KEEPER_ROUND, lease / 6)
        if SYSTEM.monotonic() < next_round:
            return min(next_round, SYSTEM.monotonic() + pause)
        self._round(owned, lease)
        return SYSTEM.monotonic() + pause

    def _round(self, owned: dict[int, Member], lease: float) -> None:
        now = SYSTEM.now()
        if abs(now - self._last_round_at) > timeouts.KEEPER_SUSPENDED:
            # This process or the whole machine slept, or the clock was set: let everybody renew before taking
            # anything away.
            self._patient_until = now + min(timeouts.KEEPER_SUSPENDED, lease)
        self._last_round_at = now
        try:
            database = self._opened()
            if not 0 <= now - self._renewed_at < lease / 3:
                self._renew(database, owned, now)
                self._renewed_at = now
            self._tell_the_lost(database, owned)
            self._keeper.sweep(database, lapsed=now >= self._patient_until)
            if SYSTEM.monotonic() >= self._space_at:
                self._space_at = SYSTEM.monotonic() + timeouts.EMBEDDED_VACUUM
                database.give_back_space()
        except BrokerError as error:
            self._keeper.complain(error)
            self._close()

    def _opened(self) -> Database:
        if self._database is None:
            self._database = Database(self._keeper.path, self._options)
        identity = self._database.identity_now()
        if identity != self._keeper.identity or self._database.identity != identity:
            error = EmbeddedBrokerUnavailable(
                f"embedded broker {self._keeper.path}: the file was removed or replaced while it was open",
                hint="reconnect; stop all workers before removing the file",
            )
            for member in self._keeper.members():
                member.fail(error)
            raise error
        return self._database

    def _renew(self, database: Database, owned: dict[int, Member], now: float) -> None:
        with database.write() as sql:
            for owner_id, member in owned.items():
                owners.renew(sql, owner_id, member.options.visibility_timeout, now)

    def _tell_the_lost(self, database: Database, owned: dict[int, Member]) -> None:
        lost = database.query(lambda sql: [owner_id for owner_id in owned if not owners.exists(sql, owner_id)])
        for owner_id in lost:
            owned[owner_id].fail(owners.lost(self._keeper.path))

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


_keepers: dict[tuple[Path, Identity], LeaseKeeper] = {}
_guard = threading.Lock()


def join(member: Member, database: Database) -> LeaseKeeper:
    """This process's keeper of that file, which wakes the connection from now on while somebody refers to it."""
    with _guard:
        for key, keeper in list(_keepers.items()):
            if keeper.idle():
                del _keepers[key]
        key = (database.path, database.identity)
        keeper = _keepers.get(key) or LeaseKeeper(*key)
        _keepers[key] = keeper
        # Inside the guard: there must never be two keepers, since one closing the lock file would drop the other's
        # locks.
        keeper.admit(member)
        return keeper


def _forget_the_parent() -> None:
    # Locks may have been held by threads that do not exist in the child.
    global _guard
    _guard = threading.Lock()
    for keeper in _keepers.values():
        keeper.abandon()
    _keepers.clear()


def _flush_everything() -> None:
    # A program that ends without closing its connection has acknowledged what it acknowledged. All else is left to the
    # kernel, which drops the locks: closing would raise in daemon threads that still drain.
    for keeper in list(_keepers.values()):
        for member in keeper.members():
            try:
                member.flush()
            except BrokerError as error:
                keeper.complain(error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parent)
atexit.register(_flush_everything)
