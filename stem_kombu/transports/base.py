"""The port of the transports: what a worker asks of a broker, whatever kind of broker it is.

:func:`stem_kombu.transports.registry.open_transport` finds the implementation. No module outside of this package asks for
the name of a driver.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from stem_kombu.clock import Clock
from stem_kombu.errors import BrokerRefused
from stem_kombu.transports.control_link import ControlLink

if TYPE_CHECKING:
    from stem_kombu.transports.publisher import PublisherConnection


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What is true of every broker of a kind; nothing connects to find it out.

    ``counts``: it can say how many messages wait in a queue. ``longest_hold``: seconds after which a delivery that waits for
    its eta goes back to the broker, ``None`` for no limit. ``low_priority_first``: the smaller number is the more urgent.
    ``monitor_exchange``: the type of the exchange to which Celery sends its events there, ``None`` where no monitor of
    Celery can be. ``carries_control``: a command reaches all processes at once, and what it makes at the broker is removed there.
    ``forgets_held``: what a killed process had not acknowledged is not delivered again. ``consumer_timeout``: seconds after
    which the broker, as it comes, takes a message from a worker that still holds it, and delivers it again.
    ``confirms_if_asked``: sending waits for the broker's confirm, unless ``confirm_publish`` is false. ``keeps_etas``: it keeps
    a message until its eta, by the clock of the one host that it is on.
    """

    counts: bool = False
    longest_hold: float | None = None
    low_priority_first: bool = False
    monitor_exchange: str | None = None
    carries_control: bool = False
    forgets_held: bool = False
    consumer_timeout: float | None = None
    confirms_if_asked: bool = False
    keeps_etas: bool = False


class ScheduledMessages(Protocol):
    """Messages that a broker keeps until they are due, where it does so."""

    def mark(self) -> object:
        """Something that changes whenever messages may have been scheduled."""

    def call_in(self, wanted: Callable[[str], bool], after: int) -> int:
        """Deliver those whose header ``id`` is wanted before their time. Looks at messages numbered above ``after``; returns
        the highest number that it looked at."""


class TaskConsumer(Protocol):
    """One connection that brings messages of task queues. Used by one thread, but for :attr:`is_cut` and :meth:`wake`.

    A message is Kombu's: ``headers``, ``properties``, ``body``, ``delivery_tag``, ``delivery_info``. Every method raises what
    the driver raises when the connection is lost (:attr:`Transport.errors`); then this object can only be closed.
    """

    #: The broker sends by itself, up to :meth:`allow`; else :meth:`take` fetches what there is room for.
    pushes: bool
    #: A tag means the same message over the next connection.
    keeps_tags: bool
    #: :meth:`wait` receives as well: what :meth:`take` returns may be as old as the beginning of the last wait.
    receives_in_wait: bool
    #: Seconds between two turns while messages keep coming, and while there is plenty to do.
    gather: float
    gather_stocked: float
    #: Seconds between two calls of :meth:`sweep`.
    sweep_interval: float
    #: ``None`` where the broker delivers a task with an eta at once.
    scheduled: ScheduledMessages | None

    @property
    def is_cut(self) -> bool:
        """Whether broker or network have ended the connection, as far as that shows without reading. From any thread."""

    def consume(self) -> None:
        """Have the broker send messages from now on."""

    def pause(self, queues: Collection[str]) -> None:
        """Receive nothing more from these queues, and again from all others; before :meth:`consume` as well. What the broker
        had sent already may still come, and goes on being acknowledged."""

    def allow(self, allowance: int, here: int, *, consuming: bool) -> None:
        """Let ``allowance`` messages be unacknowledged, ``here`` of which are here; ``consuming``: between :meth:`consume` and
        :meth:`rest`."""

    def take(self, room: int, acknowledged: Sequence[Any] = ()) -> list[Any]:
        """Acknowledge the messages of those tags, and return what has arrived, at most ``room`` messages where the broker does
        not push. Does not wait. Repeating an acknowledgement over another connection does no harm where tags are kept."""

    def wait(self, wake: int, timeout: float, *, more: bool) -> None:
        """Return when there may be a message (of consumers that don't push: only if ``more``), when the descriptor ``wake``
        is readable or :meth:`wake` was called, or after ``timeout`` seconds."""

    def wake(self) -> None:
        """End a wait that can't look at descriptors; others do nothing. From any thread."""

    def reject(self, tag: Any) -> None:
        """Let the message go: to the dead-letter exchange where there is one."""

    def give_back(self, tag: Any) -> None:
        """Let the message be delivered again; to the head of its queue where the transport can."""

    def settled(self, tag: Any) -> None:
        """The message of that tag was acknowledged or rejected on another way, through Kombu's message."""

    def rest(self) -> None:
        """Receive nothing more; acknowledging goes on."""

    def sweep(self) -> None:
        """What is due every :attr:`sweep_interval` seconds: a heartbeat, or what dead consumers held."""

    def close(self, *, keep: bool) -> None:
        """Close the connection, whatever state it is in; raises nothing. With ``keep`` what is not acknowledged stays leased
        where there are leases."""


class Leases(Protocol):
    """How a transport keeps a message from being redelivered; ``lifetime`` is in seconds."""

    @property
    def lifetime(self) -> float:
        """How long a message stays this worker's without renewal."""

    def renew(self, handles: Sequence[Any], seconds: float | None = None) -> list[bool]:
        """Renew the leases of those Kombu messages to ``seconds`` from now (default and least: the lifetime).

        One answer for each, ``False`` where the lease is lost: another consumer has the message, or it was acknowledged.
        Safe from any thread. Raises :class:`~stem_kombu.errors.BrokerUnavailable` when the broker is away.
        """

    def close(self) -> None:
        """Let connections go. May be called twice; the next renewal connects again."""


class Depths(Protocol):
    """How many messages wait in queues. Safe from any thread."""

    def of(self, queues: Sequence[str]) -> Mapping[str, int | None]:
        """Messages ready in each queue, delivered ones not counted; ``None`` where that is unknown."""

    def close(self) -> None:
        """Let the connection go. May be called twice; the next question connects again."""


class QueueBrowser(Protocol):
    """Looks into queues and takes nothing: no message changes its place, its order or its count of deliveries.

    Used by one thread. A message is Kombu's, as a :class:`TaskConsumer` gives it, and knows its queue. What consumers hold is
    not seen. Every method raises :class:`~stem_kombu.errors.BrokerUnavailable`.
    """

    def queues(self) -> list[str]:
        """The names of queues that hold messages or were declared, control queues left out, as far as they can be found
        within a bounded time."""

    def first(self, queue: str, limit: int) -> list[Any]:
        """The entries that come next, at most ``limit``, the next one first: messages, and for what is no message a
        :class:`~stem_kombu.transports.browsing.NoMessage`."""

    def search(self, queue: str) -> Iterator[Any]:
        """Every message that waits from the beginning of the search to its end, those included that the broker keeps until
        their time, in no order; one that moves meanwhile may come twice. What is no message is left out. Streamed."""

    def close(self) -> None:
        """Let the connection go. May be called twice; the next question connects again."""


class Housekeeping(Protocol):
    """Removes what dead workers left at the broker."""

    def sweep(self, live_workers: Collection[str]) -> int:
        """How many bindings of workers that are not among those were removed. Raises
        :class:`~stem_kombu.errors.BrokerUnavailable`."""


@dataclass(frozen=True, slots=True)
class GivenBack:
    """``returned``: messages that are in their queues again. ``leased``: those that a worker still holds, one that lives or one
    that died less than ``lease`` seconds ago. ``note``: what there is to say of a transport on which nothing is swept."""

    transport: str
    returned: int = 0
    leased: int = 0
    lease: float | None = None
    note: str | None = None


class Transport(Protocol):
    """One broker. The only thing that knows what kind it is; nothing connects before it has to."""

    #: Of the driver, for display.
    name: str
    #: With the password masked.
    url: str
    capabilities: Capabilities
    #: What a lost connection or a refused operation raises.
    errors: tuple[type[BaseException], ...]

    def consumer(
        self, queues: Sequence[str], *, clock: Clock, unreadable: Callable[[Exception], None] | None = None
    ) -> TaskConsumer:
        """A connected consumer of these queues, which now exist. ``unreadable`` is told of each entry of a queue that is no
        message at all, which is put aside. Raises :class:`~stem_kombu.errors.BrokerError` and :attr:`errors`."""

    def declare(self, declarations: Sequence[Any]) -> None:
        """Have these ``kombu.Queue`` and ``kombu.Exchange`` at the broker. Raises
        :class:`~stem_kombu.errors.ConfigurationError` where it has them with other arguments, and :attr:`errors`."""

    def adapts_to(self, error: BaseException) -> bool:
        """Whether the next consumer goes another way, on which that error of the last one does not come: try at once."""

    def refusal(self, error: BaseException) -> BrokerRefused | None:
        """What the error means, where the broker will go on refusing; else ``None``."""

    def control(self, *, clock: Clock) -> ControlLink:
        """How control messages go over this broker."""

    def publisher(self, timeout: float, *, clock: Clock) -> PublisherConnection:
        """A connection that sends tasks, connected within ``timeout`` seconds. Raises
        :class:`~stem_kombu.errors.BrokerUnavailable`."""

    def leases(self) -> Leases | None:
        """How leases are renewed, ``None`` where the transport has none."""

    def depths(self) -> Depths:
        """What counts messages, over a connection of its own."""

    def browser(self) -> QueueBrowser | None:
        """What looks into queues, over a connection of its own; ``None`` where a broker can't be searched without harm."""

    def purge(self, queue: str) -> int:
        """Remove the messages that wait in the queue, all priorities; how many those were. What consumers hold stays, and so
        does the queue. 0 where there is no such queue. Raises :class:`~stem_kombu.errors.BrokerUnavailable`."""

    def refuse_unfit(self) -> None:
        """Return, unless no worker may consume here: the server is of a kind that can't be used, or a kill would lose tasks and
        that was not accepted. Returns as well when the server can't be asked: what comes next says why.

        Raises :class:`~stem_kombu.errors.ConfigurationError`."""

    def check(self, queues: Callable[[], Sequence[str]]) -> list[str]:
        """Connect, and make sure that the broker takes messages; what threatens those that it keeps, and what an operator should
        know of these queues, each as a sentence. Raises :class:`~stem_kombu.errors.BrokerError`."""

    def give_back_held(self, wait: float = 0.0) -> GivenBack:
        """What dead workers held goes back to its queues, where any consumer sees it, Celery's too. A worker that lives keeps
        what it renews. The leases that still run are waited for so many seconds. Raises
        :class:`~stem_kombu.errors.BrokerUnavailable`."""

    def has_dead_letters(self, queue: str) -> bool:
        """Whether that queue, which is there, was declared with a dead-letter exchange; ``False`` where that is unknown."""

    def unused_life(self, queue: str) -> float | None:
        """Seconds for which that queue outlives its last consumer: 0 where it is deleted at once, ``None`` where it stays, or
        where that is unknown."""

    def housekeeping(self, namespace: str, worker: str) -> Housekeeping:
        """What removes the leftovers of dead workers, on behalf of that worker."""
