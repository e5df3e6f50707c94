"""A client's end of control: one connection and one private inbox for replies.

The inbox is listened at before anything is sent, so that no answer can come too early. Workers are reached by a broadcast
where the link fans out, else each through its inbox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stem_kombu import chance, timeouts
from stem_kombu.clock import Clock
from stem_kombu.control.protocol.codec import LARGEST_REPLY, decode_reply
from stem_kombu.control.protocol.messages import Reply
from stem_kombu.drop_counter import DropCounter
from stem_kombu.errors import BadMessage
from stem_kombu.signing.keyring import Keyring, Scope, Untrusted
from stem_kombu.signing.seal import REPLY, unsealed
from stem_kombu.transports import names
from stem_kombu.transports.control_link import Addresses, ControlLink, MalformedMessage


class ClientConnection:
    """Used by one thread at a time.

    With a keyring, replies that no worker of the fleet signed are dropped. Raises
    :class:`~stem_kombu.errors.BrokerUnavailable` when it can't be opened within ``timeout`` seconds.
    """

    def __init__(
        self, link: ControlLink, namespace: str, *, timeout: float, clock: Clock, keyring: Keyring | None = None
    ) -> None:
        self._clock = clock
        self._namespace = namespace
        self._keyring = keyring
        #: How many replies could not be verified, by reason, since the caller last took this away.
        self.untrusted: dict[str, int] = {}
        deadline = clock.monotonic() + timeout
        #: The monotonic time by which the command must be over that this is used for: the broker is not waited for
        #: longer (G13). Until it is open that is the opening itself.
        self.until = deadline
        self._limit = self._longest_wait()
        self._complaints = DropCounter("replies to this client", clock)
        #: Whether all workers can be reached without knowing who they are.
        self.fans_out = link.fans_out(timeout)
        owner = chance.token_hex(16)
        #: The name of the inbox that replies are to be sent to.
        self.reply_to = names.reply_name(namespace, owner)
        self._connection = link.open(
            Addresses(namespace, owner, inbox=self.reply_to, largest=LARGEST_REPLY),
            timeout=max(timeouts.CLIENT_LEAST_REPLY, deadline - clock.monotonic()),
            limit=self._limit,
            confirms=True,
        )
        self.until = float("inf")

    def broadcast(self, body: bytes, workers: Iterable[str], *, expires: float) -> None:
        """Send to everyone: at once, or where the link can't to the inboxes of ``workers``, who are those on the roster."""
        if not self.fans_out:
            self.send_to(body, workers, expires=expires)
            return
        self._limit_waits()
        self._connection.broadcast(body, expires=expires)
        self._connection.settle()

    def send_to(self, body: bytes, workers: Iterable[str], *, expires: float) -> None:
        """Send to the inbox of each of the workers. For one that isn't there nothing is left behind for long."""
        self._limit_waits()
        for worker in workers:
            self._connection.send(names.inbox_name(self._namespace, worker), body, expires=expires)
        self._connection.settle()

    def listen(self, take: Callable[[Reply], object], until: float) -> None:
        """Hand the replies that arrive to ``take``; returns after some came, or by the monotonic time ``until``."""
        self._limit_waits()
        for message in self._connection.wait(min(max(0.0, until - self._clock.monotonic()), timeouts.CLIENT_DRAIN)):
            if isinstance(message, MalformedMessage):
                self._complaints.drop("envelope", message.error)
            elif (reply := self._decoded(message.body)) is not None:
                take(reply)

    def close(self, *, broken: bool = False) -> None:
        """Let the connection go, and the inbox with it; ``broken``: the peer is not expected to answer."""
        self._connection.close(broken=broken)

    def _longest_wait(self) -> float:
        return min(timeouts.CLIENT_REPLY, max(timeouts.CLIENT_LEAST_REPLY, self.until - self._clock.monotonic()))

    def _limit_waits(self) -> None:
        left = self._longest_wait()
        if not left <= self._limit <= left + timeouts.CLIENT_REPLY_STEP:
            self._limit = left
            self._connection.limit(left)

    def _decoded(self, body: bytes) -> Reply | None:
        try:
            if self._keyring is not None:
                unsealed(body, REPLY, self._keyring).require(Scope.WORK, "act as a worker")
            return decode_reply(body)
        except Untrusted as error:
            self.untrusted[error.reason] = self.untrusted.get(error.reason, 0) + 1
            self._complaints.drop(error.reason, f"a reply: {error}")
        except BadMessage as error:
            self._complaints.drop("bad-message", str(error))
        return None
