"""One command on its way: its messages, who is asked, and who has answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from stem_kombu import chance, machine, timeouts
from stem_kombu.backends.base import RosterView
from stem_kombu.backends.heartbeat import Liveness
from stem_kombu.clock import Clock
from stem_kombu.control.client.connection import ClientConnection
from stem_kombu.control.client.reply_collector import ReplyCollector
from stem_kombu.control.protocol.codec import BUILT_IN, encode_command
from stem_kombu.control.protocol.messages import Call, Command, Order, matches
from stem_kombu.errors import ConfigurationError
from stem_kombu.revocation import TEXT_LIMIT, Revocation
from stem_kombu.signing.keyring import Keyring
from stem_kombu.signing.seal import digest_of, signature_of

#: Revocations and bytes in one message.
CHUNK, CHUNK_BYTES = 500, 400_000
#: The workers of a roster that should answer.
_ANSWER = (Liveness.LIVE, Liveness.DRAINING)


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """``timeout``: seconds that the workers have, between the monotonic times ``asked_at`` and ``deadline``. ``now``: what the
    roster's clock shows, which workers know from their heartbeats; a skew between hosts then does no harm."""

    timeout: float
    asked_at: float
    deadline: float
    now: datetime


class CommandRequest:
    """One command on its way: its messages, and who is asked. ``sender`` is told to the workers."""

    def __init__(
        self,
        namespace: str,
        orders: Sequence[Order],
        targets: tuple[str, ...] | None,
        times: RequestTimes,
        sender: str,
        *,
        clock: Clock,
        keyring: Keyring | None = None,
        request_id: str | None = None,
    ) -> None:
        self._keyring = keyring
        self._clock = clock
        self._namespace = namespace
        self._orders = orders
        self._targets = targets
        self.timeout = times.timeout
        self.deadline = times.deadline
        self.knows_roster = False
        self._now, self._stamped_at = times.now, clock.monotonic()
        self._sender = sender
        # Nobody waits for an answer after that; to look at the roster first may have used up some of the time.
        self._expires_at = times.now + timedelta(seconds=max(0.0, times.deadline - self._stamped_at))
        self.collector = ReplyCollector(
            request_id or chance.token_hex(16), namespace, targets, len(orders), asked_at=times.asked_at
        )
        self._on_roster: set[str] = set()
        self._may_live: set[str] = set()
        # What an application's command takes is not known.
        longest = max([getattr(order, "settle", 0.0) for order in orders])
        self._absent_after = float("inf") if Call in map(type, orders) else timeouts.ABSENT_ANSWER + longest
        self._bodies: list[bytes] = []
        self._reply_to = ""
        self.parts, self.sent = len(orders), 0

    def expect(self, view: RosterView | None) -> list[str]:
        """Expect answers of those who live according to the roster, and return those that are new; ``None`` when it could not be
        read."""
        if view is None:
            return []
        self.knows_roster = True
        self._on_roster.update([beat.worker for beat in view.heartbeats])
        not_dead = [
            (beat, state) for beat in view.heartbeats if (state := beat.liveness(view.now)) is not Liveness.DEAD
        ]
        self._may_live.update([beat.worker for beat, _ in not_dead])
        alive = [b.worker for b, state in not_dead if state in _ANSWER and matches(self._targets, b.worker)]
        self.collector.conflicts |= {b.worker: b.conflict for b in view.heartbeats if b.conflict and b.worker in alive}
        return self.collector.expect(alive)

    def begin(self, connection: ClientConnection) -> None:
        """Publish the first message, with the connection as the address of the answers."""
        self._reply_to = connection.reply_to
        self._bodies, self.sent = [], 0
        self.send_next(connection)

    def send_next(self, connection: ClientConnection) -> None:
        """Publish the next message, which is encoded only now: workers are at the earlier ones meanwhile."""
        body, named, expected = self._encoded(self.sent, self._now), self._targets, self.collector.expected
        if named is not None and expected.issuperset(named):
            connection.send_to(body, named, expires=self.timeout)
        else:
            connection.broadcast(body, sorted(expected), expires=self.timeout)
        self._bodies.append(body)
        self.sent += 1

    @property
    def unanswered(self) -> int:
        """How many of the messages that were sent somebody expected has not answered yet."""
        return self.sent - self.collector.answered_parts

    def waits_for_the_absent(self, seconds: float) -> bool:
        """Whether none of those that are silent, who were asked by name, may live according to the roster, and they have had
        so many seconds to answer that they are not there."""
        silent = self.collector.silent
        absent = self.knows_roster and bool(silent) and self._may_live.isdisjoint(silent)
        return absent and seconds >= self._absent_after

    def remind(self, connection: ClientConnection) -> None:
        """Ask the silent again, each through its inbox; who has the question already ignores it, or answers again."""
        for worker in sorted(self.collector.silent):
            for part in self.collector.missing_parts(worker):
                connection.send_to(self._again(part), [worker], expires=self.timeout)

    def greet_newcomers(self, connection: ClientConnection, view: RosterView | None) -> bool:
        """Ask who has appeared on the roster since; whether there was somebody."""
        new = self.expect(view)
        for part in range(self.parts) if new else ():
            connection.send_to(self._again(part), new, expires=self.timeout)
        return bool(new) and not self.collector.is_whole

    def unknown(self) -> tuple[str, ...]:
        if not self._targets:
            return ()
        known = self._on_roster.union(self.collector.heard)
        return tuple(t for t in self._targets if not any(matches((t,), worker) for worker in known))

    def _again(self, part: int) -> bytes:
        """The message once more. With keys it is issued anew: a worker obeys nothing that is older than itself."""
        if self._keyring is None:
            return self._bodies[part]
        return self._encoded(part, self._now + timedelta(seconds=self._clock.monotonic() - self._stamped_at))

    def _encoded(self, part: int, issued_at: datetime) -> bytes:
        body = encode_command(
            Command(
                request_id=self.collector.request_id,
                namespace=self._namespace,
                order=self._orders[part],
                issued_at=issued_at,
                expires_at=self._expires_at,
                reply_to=self._reply_to,
                targets=self._targets,
                part=part,
                parts=len(self._orders),
                sender=self._sender,
            ),
            self._keyring,
        )
        if self._keyring is not None and (signature := signature_of(body)) is not None:
            self.collector.asked(part, signature, digest_of(body))
        return body


def checked_ids(task_ids: Sequence[str]) -> list[str]:
    """The ids without doubles; raises :class:`ConfigurationError` for none, and for one text."""
    if isinstance(task_ids, str):
        raise ConfigurationError(f"task ids {task_ids!r} is one text", hint="pass a list of ids")
    if not task_ids:
        raise ConfigurationError("there is no task id to revoke")
    return list(dict.fromkeys(task_ids))


def checked_command(name: str) -> str:
    """The name of an application's command; raises :class:`ConfigurationError`."""
    if not name or not name.isprintable():
        raise ConfigurationError(f"{name!r} is no name of a command")
    if name in BUILT_IN:
        raise ConfigurationError(f"{name!r} is no command of an application", hint=f"call .{name}() instead")
    return name


def checked_targets(workers: Sequence[str] | None) -> tuple[str, ...] | None:
    """The worker ids and globs without doubles, ``None`` for everyone; raises :class:`ConfigurationError`."""
    if workers is None:
        return None
    named: object = workers
    every = [*named] if isinstance(named, Iterable) and not isinstance(named, str) else [None]
    if not all(isinstance(one, str) and one.strip() for one in every):
        raise ConfigurationError(
            f"workers {workers!r} must be a list of worker ids or globs", hint="write workers=['a']"
        )
    return tuple(dict.fromkeys(worker.strip() for worker in workers)) or None


def default_requester() -> str:
    """``user@host`` of this process."""
    # Either may hold bytes that are no text; a revocation must not fail for that.
    return f"{machine.user_name()}@{machine.gethostname()}".encode(errors="replace").decode()[:TEXT_LIMIT]


def chunks(stored: Sequence[Revocation]) -> list[list[Revocation]]:
    """The revocations in as many lists as it takes messages."""
    parts: list[list[Revocation]] = [[]]
    size = 0
    for revocation in stored:
        added = order_size(revocation)
        if parts[-1] and (len(parts[-1]) >= CHUNK or size + added > CHUNK_BYTES):
            parts.append([])
            size = 0
        parts[-1].append(revocation)
        size += added
    return parts


def order_size(revocation: Revocation) -> int:
    """About how many bytes a revocation takes in a command."""
    same = _text_size(revocation.reason) + _text_size(revocation.requested_by) + _text_size(revocation.namespace)
    proofs = 2 * sum(map(len, revocation.proofs))  # in which each quote is escaped once more
    return 300 + _size(revocation.task_id) + same + proofs


def _size(text: str) -> int:
    # JSON escapes a quote in two characters, and what is beyond ASCII in up to twelve.
    return len(text) * (2 if text.isascii() and text.isprintable() else 12)


@lru_cache(maxsize=8)  # most revocations of a command share these
def _text_size(text: str | None) -> int:
    return 0 if text is None else _size(text)
