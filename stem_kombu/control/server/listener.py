"""The worker's end of the control plane: its own thread, its own connection, answering while all else is busy (G16).

Two queues, one for broadcasts and one for what is meant for this worker alone. The worker counts as reachable only once
a message to itself has come back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from stem_kombu import timeouts
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.clock import Clock
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.service import Service
from stem_kombu.concurrency.wakeup import WakePipe
from stem_kombu.control.server.command_server import CommandServer
from stem_kombu.control.server.replay_guard import ReplayGuard
from stem_kombu.control.server.reply_publisher import ReplyPublisher
from stem_kombu.control.server.subscription import ControlSubscription
from stem_kombu.control.server.worker_view import WorkerView
from stem_kombu.control.verification import Verifier
from stem_kombu.errors import BrokerError, BrokerRefused, BrokerUnavailable
from stem_kombu.transports import names
from stem_kombu.transports.control_link import ControlLink
from stem_kombu.transports.outages import Outage

logger = logging.getLogger(__name__)


class Place(Protocol):
    """What the roster shows of this worker, in seconds since the epoch by the roster's clock."""

    def now(self) -> float:
        """The time."""

    def held_since(self) -> float | None:
        """When this worker took its id; ``None`` before."""


@dataclass(frozen=True, slots=True)
class ListenerOptions:
    """``hearing_check``: seconds without a broadcast after which the worker makes sure that it still receives them.
    ``linger`` is that of its :class:`ReplyPublisher`."""

    hearing_check: float = timeouts.RECEIVE_CHECK
    linger: float | None = None


class ControlListener:
    """Answers commands for one worker.

    ``commands`` are the application's own; ``reconnected()`` is called whenever this worker receives commands again after a while
    in which it may have missed something. With keys in ``trust``, only what is signed is obeyed.
    """

    def __init__(
        self,
        link: ControlLink,
        view: WorkerView,
        *,
        commands: Mapping[str, Callable[..., object]],
        place: Place,
        reconnected: Callable[[], None],
        clock: Clock,
        trust: Verifier | None = None,
        options: ListenerOptions = ListenerOptions(),
    ) -> None:
        who = view.identity
        self._link = link
        self._namespace, self._worker = who.namespace, who.worker
        self.inbox = names.inbox_name(who.namespace, who.worker)
        self._clock = clock
        self._reconnected = reconnected
        self._hearing_check = options.hearing_check
        self._outage = Outage(f"control of worker {who.worker} is interrupted", link.url, clock)
        self._outbox = ReplyPublisher(link, who.namespace, clock=clock, linger=options.linger)
        self._reception = CommandServer(
            view,
            commands,
            later=self._outbox.reply,
            roster_now=place.now,
            clock=clock,
            trust=trust,
            born=place.held_since,
        )
        self._changed = threads.Condition()
        self._background = Service(
            self._run, "stem-control", begin=self._begin, wake=self._end_soon, end=self._let_go, period=timeouts.MOVES
        )
        self._wanted = self._ready = False
        self._failure: Exception | None = None
        #: Before the worker was ever reached: what the broker will go on refusing.
        self._refusal: BrokerRefused | None = None
        self._pipe = WakePipe()

    @property
    def admission(self) -> ReplayGuard:
        """What was let in, and how many messages were dropped, by reason."""
        return self._reception.admission

    @property
    def trouble(self) -> str | None:
        """The last failure while commands don't reach this worker, else ``None``."""
        return self._outage.trouble

    def start(self) -> None:
        """Return once commands reach this worker; may be called twice.

        Raises :class:`~stem_kombu.errors.BrokerError` when they don't, or when :meth:`stop` was called meanwhile.
        """
        self._background.start()
        with self._changed:
            self._changed.wait_for(
                lambda: self._ready or self._refusal is not None or not self._wanted, timeouts.LISTENER_START
            )
            if not self._wanted:
                raise BrokerUnavailable(f"control of worker {self._worker} was stopped before it could be reached")
            if self._ready:
                return
            failure, refused = self._failure, self._refusal
        self.stop()
        if refused is not None:
            raise refused
        raise BrokerUnavailable(
            f"broker {self._link.url}: a control message to this worker itself did not come back"
            f" within {timeouts.LISTENER_START:g} s"
            + (f" ({str(failure) or type(failure).__name__})" if failure is not None else ""),
            hint=getattr(failure, "hint", None)
            or "check that the broker lets this user declare queues and a fanout exchange",
        )

    def publish_heartbeat(self, beat: Heartbeat) -> None:
        """Put the beat on the namespace's stream, if the broker is there. Safe from any thread; never blocks."""
        self._outbox.heartbeat(beat)

    def stop(self) -> None:
        """Return when nothing is answered any more; what was being answered has been. May be called in any state."""
        self._background.stop()
        self._outbox.close()  # heartbeats may have gone out without a start

    def _begin(self) -> None:
        self._link.fans_out()  # or raises, where no command could reach this worker
        self._pipe.open()
        self._reception.open()
        self._wanted, self._ready, self._failure, self._refusal = True, False, None, None

    def _end_soon(self) -> None:
        self._unwant()  # a start that still waits gives up
        self._pipe.wake()

    def _let_go(self) -> None:
        self._pipe.close()
        self._reception.close()

    def _unwant(self) -> None:
        with self._changed:
            self._wanted = False
            self._changed.notify_all()

    # -- the thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        heard_before = False
        while self._wanted:
            self._background.pulse.beat()
            if (wait := self._outage.turn()) > 0:
                self._pause(wait)
                continue
            subscription = ControlSubscription(
                self._link,
                self._namespace,
                self._worker,
                receive=self._reception.receive,
                malformed=self.admission.drop,
                hearing_check=self._hearing_check,
                pipe=self._pipe,
                clock=self._clock,
            )
            try:
                subscription.open()
                self._outage.reached()
                while self._wanted:
                    self._background.pulse.beat()
                    if subscription.listen():
                        self._outage.worked()
                        if heard_before:
                            # Not before: what is broadcast between connecting and hearing is missed as well.
                            self._reconnected()
                        heard_before = True
                        self._set_ready()
            except BrokerError as error:
                wait = self._note(error)
            except Exception as error:
                # The boundary of the thread that keeps this worker reachable: it must outlive whatever a driver raises.
                if not self._outage.failures:
                    logger.exception("the control connection failed in an unexpected way")
                wait = self._note(error)
            self._close(subscription)
            if self._outage.failures > 1:  # after the first failure at once: what is broadcast now is missed
                self._pause(wait)
        self._outage.forget()

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._wanted, seconds)

    def _close(self, subscription: ControlSubscription) -> None:
        # In a thread of its own, as closing may wait for the broker and no command reaches this worker meanwhile.
        closing = threads.Thread(target=subscription.close, name="stem-control-close", daemon=True)
        closing.start()
        if not self._wanted:
            closing.join(timeouts.LISTENER_CLOSE)

    def _set_ready(self) -> None:
        with self._changed:
            self._ready, self._failure = True, None
            self._changed.notify_all()

    def _note(self, error: Exception) -> float:
        self._failure = error
        if not self._ready and isinstance(error, BrokerRefused):
            with self._changed:
                self._refusal = error
                self._changed.notify_all()
        return self._outage.failed(error)
