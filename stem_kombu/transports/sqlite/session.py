"""One Kombu connection to the file: its owner, its pending acknowledgements, its locks."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.errors import BrokerError
from stem_kombu.transports.sqlite import lease_keeper as keeper
from stem_kombu.transports.sqlite import messages
from stem_kombu.transports.sqlite import owner_locks as owners
from stem_kombu.transports.sqlite.database import Database
from stem_kombu.transports.sqlite.doorbell import WakeUp
from stem_kombu.transports.sqlite.errors import EmbeddedBrokerUnavailable
from stem_kombu.transports.sqlite.options import Options

logger = logging.getLogger(__name__)

#: Acknowledgements written together at most.
_ACK_GROUP = 64

T = TypeVar("T")
P = ParamSpec("P")
Chore = Callable[[sqlite3.Connection], None]


class Session:
    """An open connection. Every method may be called from any thread.

    ``wake_up`` is set whenever the thread that drains should look again.
    """

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        self.options = options
        self.wake_up = WakeUp(path)
        self.lock = threading.RLock()
        self.owner_id: int | None = None
        #: The thread that drains: its acknowledgements may wait for company, as it comes back soon.
        self.drainer: int | None = None
        #: Set in a forked child: nothing of this is the child's.
        self.inherited = False
        #: When the next scheduled message comes due, as far as known here.
        self.next_due: float | None = None
        #: How long to wait before looking again: short after something happened, growing to the polling interval.
        self.pause = options.polling_interval
        self._closed = False
        self._failure: BrokerError | None = None
        self._writes = 0
        self._settled: list[tuple[int, int]] = []
        self._settled_at = 0.0
        self._chores: list[Chore] = []
        self._database = Database(path, options)
        self._keeper = keeper.join(self, self._database)

    # -- reading and writing

    @property
    def usable(self) -> bool:
        """Whether calls have a chance."""
        return not (self._closed or self._failure or self.inherited or self._database.replaced)

    def check(self) -> None:
        """Raises :class:`EmbeddedBrokerUnavailable` once the connection is closed or was given up."""
        if self._failure is not None:
            raise EmbeddedBrokerUnavailable(self._failure.message, hint=self._failure.hint)
        if self._closed:
            raise EmbeddedBrokerUnavailable(
                f"embedded broker {self.path}: the connection is closed", hint="open another"
            )

    @contextmanager
    def write(self, *, news: bool = False) -> Iterator[sqlite3.Connection]:
        """A write transaction, which takes pending acknowledgements along; ``news`` if it may make messages ready."""
        with self.lock:
            self.check()
            chores, settled = self._chores[:], self._settled[:]
            with self._database.write() as sql:
                for chore in chores:
                    chore(sql)
                late = [tag for tag in settled if not messages.settle(sql, *tag)]
                taken = {tag for tag in late if messages.exists(sql, tag[0])}
                yield sql
            # Committed; what another thread may have added meanwhile stays for the next transaction.
            del self._chores[: len(chores)]
            del self._settled[: len(settled)]
            for message_id, tries in late:
                if (message_id, tries) in taken:
                    logger.warning(
                        "embedded broker %s: late acknowledgement of %d.%d refused: its lease ran out, and the message"
                        " went to another consumer",
                        self.path,
                        message_id,
                        tries,
                    )
                else:
                    logger.info("embedded broker %s: acknowledged %d.%d is gone already", self.path, message_id, tries)
            if news or chores:
                self._writes += 1
        if news or chores:
            self.pause = timeouts.EMBEDDED_POLL
            self._keeper.announce()

    def query(self, ask: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **keywords: P.kwargs) -> T:
        """What ``ask`` reads from one connection; it must not write."""
        with self.lock:
            self.check()
            return self._database.query(ask, *args, **keywords)

    def mark(self) -> tuple[int, int]:
        """A value that differs from the last one if anything was written since, by whomever."""
        with self.lock:
            self.check()
            return self._database.data_version(), self._writes

    def promote_due(self) -> None:
        """Make scheduled messages ready whose time has come, as far as this connection knows of any."""
        if self.next_due is None or self.next_due > SYSTEM.now():
            return
        with self.lock:
            now = SYSTEM.now()
            self.next_due = self.query(messages.next_due)
            if self.next_due is not None and self.next_due <= now:
                with self.write(news=True) as sql:
                    messages.promote(sql, now)
                    self.next_due = messages.next_due(sql)

    def sweep(self) -> None:
        """Sweep up after the dead, unless that was just done."""
        with self.lock:
            self.check()
            self._keeper.sweep(self._database, at_most_every=timeouts.EMBEDDED_SWEEP)

    # -- owning

    def own(self) -> int:
        """The id of this connection as an owner; it becomes one, whose lease is kept renewed, when first asked."""
        with self.lock:
            self.check()
            if self.owner_id is None:
                self.owner_id = self._keeper.register(self, self._database)
            return self.owner_id

    def require_owner(self, sql: sqlite3.Connection) -> None:
        """Raises :class:`EmbeddedBrokerUnavailable` when others took this owner for dead."""
        if self.owner_id is not None and not owners.exists(sql, self.owner_id):
            raise owners.lost(self.path)

    @property
    def settlements_wait(self) -> bool:
        """Whether the next transaction has acknowledgements or chores to take along."""
        return bool(self._settled or self._chores)

    def settle(self, message_id: int, tries: int) -> None:
        """Remove the message, now or within milliseconds: grouping may delay an acknowledgement, never lose one."""
        with self.lock:
            self.check()
            self._settled.append((message_id, tries))
            first = len(self._settled) == 1
            if first:
                self._settled_at = SYSTEM.monotonic()
            may_wait = threading.get_ident() == self.drainer and len(self._settled) < _ACK_GROUP
        if not may_wait:
            self.flush()
            self.wake_up.set()  # the drainer may have waited for this credit
        elif first:
            self._keeper.acknowledgements_wait()

    def do(self, chore: Chore) -> None:
        """Run the chore in a transaction now, or together with the next one that succeeds."""
        with self.lock:
            self._chores.append(chore)
            try:
                self.flush()
            except BrokerError as error:
                logger.warning("put off until the broker's file can be written: %s", error)

    def flush(self) -> None:
        """Write what waits."""
        with self.lock:
            if self.settlements_wait:
                with self.write():
                    pass

    def flush_late(self) -> None:
        """Write what has waited long enough.

        Does not wait for another thread, as the keeper has leases to renew. Raises :class:`BrokerError`.
        """
        if not self.settlements_wait or not self.lock.acquire(timeout=0.01):
            return
        try:
            late = SYSTEM.monotonic() - self._settled_at >= timeouts.ACK_GATHERING
            if self.usable and (self._chores or (self._settled and late)):
                self.flush()
        finally:
            self.lock.release()

    def note_activity(self) -> None:
        """Something was delivered: more may follow, so look again soon."""
        self.pause = timeouts.EMBEDDED_POLL

    def note_silence(self) -> None:
        """Nothing was there: wait longer next time, up to the polling interval, and after a second up to twice it."""
        longest = self.options.polling_interval
        self.pause = (
            self.pause * 1.5 if self.pause * 1.5 < longest else min(max(self.pause * 1.01, longest), 2 * longest)
        )

    # -- ending

    def fail(self, error: BrokerError) -> None:
        """Give the connection up: whoever uses it gets this error and should reconnect."""
        self._failure = error
        self.wake_up.set()

    def abandon(self) -> None:
        """In a forked child: the file, the leases and the locks are the parent's."""
        self.inherited = True
        self.owner_id = None
        # A thread that does not exist here may have held them.
        self.lock = threading.RLock()
        self.wake_up.abandon()
        self.wake_up = WakeUp(self.path)
        self._database.abandon()

    def close(self) -> None:
        """Write what waits, make ready what is held, leave. May be called twice; a :class:`BrokerError` is logged."""
        if self.inherited:
            return
        with self.lock:
            if self._closed:
                return
            try:
                if self._failure is None and (self.owner_id is not None or self.settlements_wait):
                    with self.write() as sql:
                        if self.owner_id is not None:
                            owners.forget(sql, self.owner_id, SYSTEM.now())
            except BrokerError as error:
                # Nothing is lost: without its lock the owner counts as dead and others sweep up.
                logger.warning("connection closed without a farewell: %s", error)
            self._closed = True
            self._database.close()
            owner_id, self.owner_id = self.owner_id, None
        self._keeper.dismiss(self, owner_id)
        self._keeper.announce()
        self.wake_up.close()
