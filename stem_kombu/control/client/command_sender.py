"""What sends the orders of a command and collects the replies, until everyone has answered or the one deadline.

Each command takes a connection for itself, so a client's threads may send at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from stem_kombu import timeouts
from stem_kombu.backends.base import RosterView
from stem_kombu.clock import Clock
from stem_kombu.control.client.command_request import CommandRequest, RequestTimes
from stem_kombu.control.client.connection import ClientConnection, ClientConnections
from stem_kombu.control.client.places import ClientPlaces
from stem_kombu.control.client.reports import Report, WorkerReply
from stem_kombu.control.client.roster import RosterClock, RosterReader
from stem_kombu.control.protocol.messages import Order
from stem_kombu.control.verification import Verifier
from stem_kombu.errors import BrokerError, BrokerUnavailable
from stem_kombu.settings import Settings

#: Messages of one command that a client sends to a worker before the worker has answered the first of them. So the worker
#: receives other commands in between, and not behind ten thousand revocations (G16).
WINDOW = 4


class CommandSender:
    """Sends for ``requester``. ``places`` has the roster; ``on_wait`` is that of :class:`ControlClient`."""

    def __init__(
        self,
        settings: Settings,
        connections: ClientConnections,
        places: ClientPlaces,
        trust: Verifier,
        requester: str,
        on_wait: Callable[[int, int, float], None] | None,
        clock: Clock,
    ) -> None:
        self._namespace, self._timeout = settings.namespace, settings.control_timeout
        self._connections, self.places = connections, places
        self._trust = trust
        self._requester = requester
        self._on_wait = on_wait
        self._clock = clock
        self.roster_clock, self._fans_out = RosterClock(clock), False
        self.renew()

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`: no thread of the parent is here to read the roster."""
        self.lookout = RosterReader(self._look, self._clock)

    def _look(self) -> RosterView:
        return self.places.roster().view(self._namespace)

    def close(self) -> None:
        """Let the connections go."""
        self._connections.close()
        self.lookout.close()

    def ask(
        self,
        orders: Sequence[Order],
        targets: tuple[str, ...] | None,
        timeout: float,
        *,
        began: float | None = None,
        progress: Callable[[int, int], None] | None = None,
        enough: Callable[[WorkerReply], bool] | None = None,
        request_id: str | None = None,
    ) -> Report:
        """Give these orders, parts of one command, and collect the replies for ``timeout`` seconds at most.

        ``elapsed`` of the report counts from ``began``, by default from now. ``enough``: one reply like that ends the wait.
        Raises :class:`~stem_kombu.errors.BrokerUnavailable` if the orders can't be sent.
        """
        began = self._clock.monotonic() if began is None else began
        notes: list[str] = []
        self._connections.link()  # first, so that a wrong broker URL is not blamed on the roster beside it
        self.places.roster()  # which connects to nothing yet, but may have a driver to load
        # What loading and storing took doesn't count against the workers: they get the whole timeout from here.
        asked = self._clock.monotonic()
        deadline = asked + timeout
        # Who must answer can be looked up while the workers are at it, unless it decides what is sent, and how fast.
        look_until = asked + timeouts.ROSTER_SHARE * timeout
        now = self.roster_clock.now() if self._fans_out and len(orders) == 1 else None
        look_later = now is not None
        view = None if look_later else self.roster_view(notes, look_until)
        if now is None:
            # Where it can't be read any more, what it once showed is nearer to it than a clock of this machine may be.
            now = self.roster_clock.now(longest=float("inf")) or self._clock.utcnow() if view is None else view.now
        question = CommandRequest(
            self._namespace, orders, targets, RequestTimes(timeout, asked, deadline, now), self._requester,
            clock=self._clock, keyring=self._trust.keyring, request_id=request_id,
        )  # fmt: skip
        if not look_later:
            question.expect(view)
        connection = self._put(question, deadline)
        try:
            if look_later:
                question.expect(self.roster_view(notes, look_until))
            self._send_the_rest(question, connection, progress)
        except BrokerError:
            connection.close(broken=True)
            raise
        except BaseException:
            connection.close()
            raise
        try:
            self._collect(question, connection, began=self._clock.monotonic(), looked_since=look_later, enough=enough)
        except BrokerUnavailable as error:
            if self._clock.monotonic() < deadline:  # else only the time is up, for the driver as well
                notes.append(f"the connection was lost while waiting for replies: {error}")
            connection.close(broken=True)
        else:
            self._connections.put_back(connection)
        collector = question.collector
        collector.give_up()
        untrusted, connection.untrusted = connection.untrusted, {}
        if untrusted:
            counted = ", ".join(f"{count} {reason}" for reason, count in sorted(untrusted.items()))
            notes.append(f"unverified replies dropped: {counted}")
        return Report(
            command=orders[0].name,
            namespace=self._namespace,
            request_id=collector.request_id,
            timeout=timeout,
            elapsed=self._clock.monotonic() - began,
            expected=tuple(sorted(collector.expected)),
            silent=tuple(sorted(collector.silent)),
            replies=collector.replies(),
            notes=tuple(notes),
            unknown=question.unknown(),
            untrusted=untrusted,
            conflicts=collector.conflicts,
        )

    def _put(self, question: CommandRequest, deadline: float) -> ClientConnection:
        """Begin to publish the question; one that has broken meanwhile is replaced once."""
        while True:
            connection, fresh = self._connections.take(deadline)
            connection.until = deadline
            try:
                question.begin(connection)
            except BrokerError:
                connection.close(broken=True)
                if fresh or self._clock.monotonic() >= deadline:
                    raise
            except BaseException:
                connection.close()
                raise
            else:
                self._fans_out = connection.fans_out
                return connection

    def _send_the_rest(
        self, question: CommandRequest, connection: ClientConnection, progress: Callable[[int, int], None] | None
    ) -> None:
        """Publish what :meth:`_put` has left, as answers come in; all of it by half of the time."""
        clock = self._clock
        in_a_hurry = question.deadline - question.timeout / 2
        next_at = 0.0
        while True:
            if progress is not None:
                progress(question.sent, question.parts)
            if question.sent == question.parts:
                return
            while question.unanswered >= WINDOW and (now := clock.monotonic()) < min(next_at, in_a_hurry):
                for reply in connection.listen(min(next_at, now + 0.05)):
                    question.collector.hear(reply, clock.monotonic())
            question.send_next(connection)
            next_at = clock.monotonic() + timeouts.WINDOW_WAIT

    def _collect(
        self,
        question: CommandRequest,
        connection: ClientConnection,
        *,
        began: float,
        looked_since: bool,
        enough: Callable[[WorkerReply], bool] | None,
    ) -> None:
        """Listen until everyone has answered, or one with what is ``enough``. ``looked_since``: the roster was read after the
        question was sent, so that it needs no second look for who came too late to hear it."""
        collector, clock = question.collector, self._clock
        patience = min(timeouts.RETRY_LATEST, timeouts.RETRY_SHARE * question.timeout)
        retry_at, at_last = began + patience, began + question.timeout / 2
        while (now := clock.monotonic()) < question.deadline:
            if enough is not None and any(map(enough, collector.replies())):
                return
            if collector.is_whole:
                if looked_since:
                    return
                looked_since = True
                if not question.greet_newcomers(connection, self.roster_view([], question.deadline)):
                    return
                continue
            if (
                not collector.expected
                and question.knows_roster
                and now >= began + min(timeouts.NO_WORKER_WINDOW, question.timeout)
            ):
                return
            if question.waits_for_the_absent(now - began):
                question.expect(self.roster_view([], question.deadline))  # one of them may have started meanwhile
                if question.waits_for_the_absent(now - began):
                    return
            if now >= retry_at and now < min(collector.last_heard + patience, at_last):
                retry_at = min(collector.last_heard + patience, at_last)  # they are still coming in
            if now >= retry_at:
                # Redis forgets what is broadcast while a socket is down; an inbox is a list and keeps it.
                question.remind(connection)
                at_last = retry_at = now + max(timeouts.RETRY_LATEST, timeouts.RETRY_SHARE * question.timeout)
            if self._on_wait is not None:
                expected = len(collector.expected)
                self._on_wait(expected - len(collector.silent), expected, question.deadline - now)
            for reply in connection.listen(min(question.deadline, now + 0.05)):
                collector.hear(reply, clock.monotonic())

    def roster_view(self, notes: list[str], until: float) -> RosterView | None:
        whole = self.lookout.view(until - self._clock.monotonic(), notes)
        if whole is None:
            return None
        view = self._trust.view(whole, self._namespace)
        self.roster_clock.read(view.now)
        if left_out := len(whole.heartbeats) - len(view.heartbeats):
            notes.append(f"{left_out} unverified heartbeat{'' if left_out == 1 else 's'} ignored")
        return view

    def roster_now(self) -> Callable[[], datetime]:
        """The roster's clock from one look at it, or ours where it can't be read."""
        view = self.roster_view([], self._clock.monotonic() + self._timeout)
        offset = timedelta() if view is None else view.now - self._clock.utcnow()
        return lambda: self._clock.utcnow() + offset
