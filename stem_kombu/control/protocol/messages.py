"""What operators and workers send each other: commands with their arguments, and replies.

Values only; :mod:`stem_kombu.control.protocol.codec` encodes and decodes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from fnmatch import fnmatchcase

from stem_kombu.directive import Directive
from stem_kombu.revocation import Revocation
from stem_kombu.rule import Rule
from stem_kombu.selector import Selector
from stem_kombu.signing.keyring import Key, Scope


@dataclass(frozen=True, slots=True)
class Ping:
    """Whether the worker is there and handles commands."""

    name = "ping"


@dataclass(frozen=True, slots=True)
class Inspect:
    """What runs; with ``revoked`` the newest revocations as well, at most ``limit``, of those below the version ``before``.

    A worker answers with a page: fewer than ``limit`` where they would make too long a message.
    """

    revoked: bool = False
    limit: int = 1000
    before: int | None = None

    name = "inspect"


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters, queue depths, pool and metadata; with ``measures`` what metrics need as well (:mod:`stem_kombu.measures`).
    Workers of 0.1.0 don't know that."""

    measures: bool = False

    name = "stats"


@dataclass(frozen=True, slots=True)
class Revoke:
    """Apply these revocations, which the store holds already. ``settle`` is how many seconds the worker may wait, before it
    replies, for tasks whose stop it requested. Without revocations, the reply tells whether the sender may revoke.

    ``fates``: wait for each of these tasks that is here, and tell in the reply where it is. Workers of 0.1.0 don't know it.
    """

    revocations: Sequence[Revocation]
    settle: float = 0.0
    fates: bool = False

    name = "revoke"


class ShutdownMode(str, Enum):
    """How a worker stops, the gentlest first: it finishes what runs; it requeues what has not ended in time; or at once."""

    WARM = "warm"
    SOFT = "soft"
    HARD = "hard"


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Stop. ``grace`` is in seconds: until handlers have to leave (``soft``), or until a warm stop becomes ``then``.
    ``exit_code`` is that of the worker's process, 0 or 75; ``reason`` and ``requested_by`` are for its log."""

    mode: ShutdownMode = ShutdownMode.WARM
    grace: float = 30.0
    then: ShutdownMode | None = None
    exit_code: int = 0
    reason: str | None = None
    requested_by: str | None = None

    name = "shutdown"

    @property
    def kills(self) -> bool:
        """Whether a handler that does not leave is killed."""
        return ShutdownMode.HARD in (self.mode, self.then)


@dataclass(frozen=True, slots=True)
class Obey:
    """Obey these directives, which the store holds already; without any, tell which ones are obeyed. ``settle`` is how many
    seconds the worker may wait, before it replies, for starts that were under way when a pause came."""

    directives: tuple[Directive, ...] = ()
    settle: float = 0.0

    name = "directives"


@dataclass(frozen=True, slots=True)
class Select:
    """Which tasks that are here match, and were sent before ``before``; ``longer_than``: only those that have run for so many
    seconds. The reply counts all and names the first ``limit``. Workers of 0.1.0 don't know it."""

    selector: Selector
    before: datetime
    longer_than: float | None = None
    limit: int = 10_000

    name = "select"


@dataclass(frozen=True, slots=True)
class Rules:
    """Obey these rules, which the store holds already. Workers of 0.1.0 don't know it."""

    rules: tuple[Rule, ...]

    name = "rules"


@dataclass(frozen=True, slots=True)
class Call:
    """A control command that the application registered under ``name``; ``args`` is JSON."""

    name: str
    args: Mapping[str, object] = field(default_factory=dict)


#: The code of a refusal because of the command's times: it expired, or is older than its worker.
STALE = "stale"
#: The code of a refusal for want of a signature or a permission.
REFUSED = "refused"

Order = Ping | Inspect | Stats | Revoke | Select | Rules | Shutdown | Obey | Call


def _bare(order: Callable[[], Order]) -> Callable[[Mapping[str, object]], Order]:
    def decode(_: Mapping[str, object]) -> Order:
        return order()

    return decode


#: Orders that have no arguments, by their names: nothing more has to be said of how they are written and read.
WITHOUT_ARGUMENTS = {Ping.name: _bare(Ping)}


def scope_of(order: Order) -> Scope:
    """The scope that a key needs for that order; an order that is not known to change nothing counts as one that does."""
    if isinstance(order, Shutdown) and order.kills:
        return Scope.DESTROY
    asks = isinstance(order, (Ping, Inspect, Stats, Select)) or (isinstance(order, Obey) and not order.directives)
    return Scope.READ if asks else Scope.OPERATE


@dataclass(frozen=True, slots=True)
class Command:
    """An order on its way. ``targets`` are worker ids and globs, ``None`` for all.

    ``issued_at`` and ``expires_at`` are by the roster's clock, which both ends know; after the latter a worker ignores it.
    ``part`` of ``parts`` counts from 0, for an order that is too large for one message.
    """

    request_id: str
    namespace: str
    order: Order
    issued_at: datetime
    expires_at: datetime
    reply_to: str
    targets: tuple[str, ...] | None = None
    part: int = 0
    parts: int = 1
    sender: str | None = None
    #: Set where keys are checked: the key that signed it, its signature, and the SHA-256 of the bytes that were received.
    signer: Key | None = None
    signature: str | None = None
    digest: str | None = None

    @property
    def scope(self) -> Scope:
        """What a key must be good for to give this order."""
        return scope_of(self.order)


@dataclass(frozen=True, slots=True)
class Reply:
    """A worker's answer to one part of a command; ``error`` is set instead of a payload.

    Where there are keys, ``answers`` is the verified signature of the command that it answers (which workers and clients
    of 0.1.0 go by), and ``command_digest`` the SHA-256 of the bytes that the worker received, verified or not.
    """

    request_id: str
    namespace: str
    worker: str
    boot: str
    payload: Mapping[str, object]
    error: ReplyError | None = None
    part: int = 0
    answers: str | None = None
    command_digest: str | None = None


@dataclass(frozen=True, slots=True)
class ReplyError:
    """``code`` is a stable word for scripts, ``message`` is for people."""

    code: str
    message: str


def matches(targets: Sequence[str] | None, worker: str) -> bool:
    """Whether a worker id is meant by the targets (ids and globs; ``None`` means all)."""
    if targets is None or worker in targets:
        return True
    # Only globs go through a pattern: to compile one for each of thousands of plain ids would take a second.
    return any(is_glob(target) and fnmatchcase(worker, target) for target in targets)


def is_glob(target: str) -> bool:
    """Whether a target may match several workers."""
    return any(char in target for char in "*?[")
