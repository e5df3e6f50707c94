"""Failures that are tried again: how long to wait, what to log, and when to say that it works again.

One worker has a dozen connections to one server. When that is down each of them fails, so tries and lines are counted for
the server, not for the connection. While it can't be reached one of them tries at a time, and the others as soon as that
succeeds. Of lines there is one at once, another after a while if the reason has changed, one a minute with a count, and
one when everything works again.
"""

from __future__ import annotations

import itertools
import logging
import threading
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.transports.connections import backoff

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Server:
    failing: set[int] = field(default_factory=set)
    #: Monotonic: the beginning, the last line, and the last line of each text.
    since: float = 0.0
    said_at: float = float("-inf")
    said: dict[str, float] = field(default_factory=dict)
    #: Failures since the beginning, and since the last line.
    failures: int = 0
    unsaid: int = 0
    #: While it can't be reached: when it is tried again (monotonic), and how often it was in a row.
    closed_until: float = float("-inf")
    rounds: int = 0
    tried_at: float = float("-inf")


_servers: dict[str, _Server] = {}
_numbers = itertools.count()
_lock = threading.Lock()


def server_of(url: str) -> str:
    """Host and port of a masked URL, or the whole of one that has none."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or url
    except ValueError:
        return url


class Outage:
    """One thing that a server is asked for again and again: ``what`` says which, as the beginning of a sentence about its
    failure (``"task queues default are not consumed"``). Each method is safe from any thread.
    """

    def __init__(self, what: str, url: str, clock: Clock, *, longest: float = 5.0) -> None:
        self._number = next(_numbers)
        self._what = what
        self._server = server_of(url)
        self._clock = clock
        self._longest = longest
        #: Failures since it worked last.
        self.failures = 0
        #: The last failure, ``None`` while it works.
        self.trouble: str | None = None
        #: What to do about it, where that is known.
        self.hint: str | None = None

    def turn(self) -> float:
        """Seconds to wait before the server is tried at all; 0 when it is this one's turn, and nobody else's for a while."""
        if self.trouble is None:
            return 0.0
        now = self._clock.monotonic()
        with _lock:
            server = _servers.get(self._server)
            if server is None or not server.rounds:
                return 0.0
            if now < server.closed_until:
                return server.closed_until - now + timeouts.RECONNECT_SPREAD
            server.closed_until = now + backoff(server.rounds, longest=timeouts.RECONNECT_LONGEST)
            return 0.0

    def failed(self, error: BaseException | str) -> float:
        """Note a failure and log it as far as it is news; returns the seconds to wait before the next try."""
        text = " ".join(str(error).split()) or type(error).__name__
        self.trouble, self.hint = text, getattr(error, "hint", None)
        self.failures += 1
        now = self._clock.monotonic()
        with _lock:
            server = _servers.setdefault(self._server, _Server())
            if not server.failing:
                server.since, server.failures, server.unsaid = now, 0, 0
            server.failing.add(self._number)
            server.failures += 1
            server.unsaid += 1
            if _is_unreachable(error) and (not server.rounds or now >= server.tried_at + timeouts.OUTAGE_ROUND):
                server.rounds, server.tried_at = server.rounds + 1, now
                server.closed_until = now + backoff(server.rounds, longest=timeouts.RECONNECT_LONGEST)
            is_news = now - server.said_at >= timeouts.CHANGED_OUTAGE_LOG and (
                now - server.said.get(text, float("-inf")) >= timeouts.SAME_OUTAGE_LOG
            )
            unsaid = server.unsaid
            if is_news:
                server.said = {one: at for one, at in server.said.items() if now - at < timeouts.SAME_OUTAGE_LOG} | {
                    text: now
                }
                server.said_at, server.unsaid = now, 0
        if is_news:
            count = f" ({unsaid} failures since the last line about {self._server})" if unsaid > 1 else ""
            logger.warning("%s: %s; trying again%s", self._what, text, count)
        else:
            logger.debug("%s: %s; trying again", self._what, text)
        return backoff(self.failures, longest=self._longest)

    def worked(self) -> None:
        """Note that it works. Cheap while it did before."""
        if self.trouble is None:
            return
        self.forget()
        self.reached()
        with _lock:
            server = _servers[self._server]
            if server.failing:
                return
            told = server.said_at >= server.since
            count, seconds = server.failures, self._clock.monotonic() - server.since
            # What comes next is news again, but a server that comes and goes must not fill the log either.
            server.said.clear()
        if told:
            logger.warning("%s works again, after %d failures in %.1f s", self._server, count, seconds)

    def reached(self) -> None:
        """Note that the server can be reached, whether or not it does what it is asked for: all may try again."""
        with _lock:
            if (server := _servers.get(self._server)) is not None and server.rounds:
                server.rounds, server.closed_until = 0, float("-inf")

    def forget(self) -> None:
        """It is not asked for any more."""
        self.trouble, self.failures = None, 0
        with _lock:
            if (server := _servers.get(self._server)) is not None:
                server.failing.discard(self._number)


def _is_unreachable(error: BaseException | str) -> bool:
    """Whether nothing was asked of the server, as it could not be reached."""
    text = str(error).lower()
    return any(words in text for words in _UNREACHABLE)


#: In the words of drivers and systems, which is all that is left of it here.
_UNREACHABLE = (
    "connection refused",
    "connection was closed",
    "closed the connection",
    "closed by server",
    "reset by peer",
    "be resolved",
    "not connected within",
    "unreachable",
)
