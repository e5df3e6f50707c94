"""What a worker does with a control message: read it, judge it, carry it out in the right lane, answer.

What is quick is answered by the thread that receives it: pings, and directives, for which tasks start until they are obeyed.
What may take a moment goes to other threads, so that no command that waits is ever in front of a ping (G16), nor a revoke behind
one that waits for its tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.concurrency.thread_pool import ThreadPool
from stem_kombu.control.protocol.codec import Unreadable, address_of, decode_command
from stem_kombu.control.protocol.messages import (
    STALE,
    Call,
    Command,
    Inspect,
    Obey,
    Ping,
    ReplyError,
    Revoke,
    Shutdown,
    matches,
)
from stem_kombu.control.server.dispatch import Dispatch
from stem_kombu.control.server.handlers.directives import obey, obeyed_payload
from stem_kombu.control.server.handlers.revoke import Taken, settled, take
from stem_kombu.control.server.replay_guard import ReplayGuard, Verdict
from stem_kombu.control.server.worker_view import WorkerView
from stem_kombu.control.verification import NO_KEYS, Verifier
from stem_kombu.directive import Kind
from stem_kombu.errors import BadMessage
from stem_kombu.signing.keyring import Key, Untrusted
from stem_kombu.signing.seal import digest_of, signature_of
from stem_kombu.transports.names import is_reply_name

logger = logging.getLogger(__name__)

#: Threads that wait for tasks to stop, that ask brokers and copy large caches, and that run an application's commands.
_SETTLING, _ASKING, _CALLING = 32, 4, 8

#: Puts a reply into an inbox: ``say(reply_to, body)``.
Say = Callable[[str, bytes], None]


class CommandServer:
    """Receives the messages of one worker. ``later(reply_to, body)`` sends a reply from any thread and never blocks."""

    def __init__(
        self,
        view: WorkerView,
        commands: Mapping[str, Callable[..., object]],
        *,
        later: Say,
        roster_now: Callable[[], float],
        clock: Clock,
        trust: Verifier | None = None,
        born: Callable[[], float | None] | None = None,
    ) -> None:
        who = view.identity
        self._worker, self._namespace = who.worker, who.namespace
        self._view = view
        self._trust = trust or NO_KEYS
        self._dispatch = Dispatch(view, commands, self._trust)
        self.admission = ReplayGuard(who.worker, who.namespace, roster_now, clock, born)
        self._later = later
        self._clock = clock
        self._lanes: list[ThreadPool] = []

    def open(self) -> None:
        """Be ready to receive. May be called twice, and again after :meth:`close`."""
        if self._lanes:
            return
        # One thread takes revocations, so that they are taken in the order in which they were heard.
        self._taking = ThreadPool("stem-control-take", 1, clock=self._clock)
        self._settling = ThreadPool("stem-control-settle", _SETTLING, clock=self._clock)
        self._asking = ThreadPool("stem-control-ask", _ASKING, clock=self._clock)
        self._calling = ThreadPool("stem-control-call", _CALLING, clock=self._clock)
        self._lanes = [self._taking, self._asking, self._calling, self._settling]

    def close(self) -> None:
        """Return when nothing is carried out any more, or after a moment; a command that never ends is left behind."""
        deadline = self._clock.monotonic() + timeouts.LAST_COMMANDS
        for lane in self._lanes:
            lane.stop(max(0.0, deadline - self._clock.monotonic()))
        self._lanes = []

    def receive(self, body: bytes, say: Say, *, private: bool = False) -> None:
        """Handle one message; ``say`` sends a reply at once, in this thread. ``private``: it came to this worker alone."""
        try:
            signer = self._trust.signer_of(body)  # first of all: what no key of the fleet signed is not parsed
        except Untrusted as error:
            self._distrust(body, error, say)
            return
        try:
            command = decode_command(body, known=self._dispatch.knows)
        except Unreadable as error:
            self._refuse(error, body, say)
            return
        except BadMessage as error:
            self.admission.drop(error.code, str(error))
            return
        if signer is not None:
            command = replace(command, signer=signer, signature=signature_of(body), digest=digest_of(body))
            if not self._permits(command, signer, say, private):
                return
        verdict = self.admission.judge(command)
        if verdict is Verdict.OBEY:
            self._obey(command, say)
        elif verdict is Verdict.STALE and command.signer is not None:
            say(
                command.reply_to,
                self._refusal(command, "it has expired, or was issued before this worker started", STALE),
            )
        elif verdict is Verdict.KNOWN:
            if command.signer is not None:
                self.admission.drop("replayed", f"command {command.order.name!r} was received before")
            answer = self.admission.answer_to(command)
            if answer is not None:
                say(command.reply_to, answer)
        elif verdict is Verdict.REFUSE:
            say(command.reply_to, self._busy(command))

    def _distrust(self, body: bytes, error: Untrusted, say: Say) -> None:
        """Count what no key signed, and tell its sender, if there is one in this namespace and this worker was meant."""
        try:
            to = address_of(body)
        except BadMessage:
            self.admission.drop(error.reason, f"a message: {error}")
            return
        if not matches(to.targets, self._worker):
            return
        self.admission.drop(error.reason, f"a command: {error}")
        if is_reply_name(self._namespace, to.reply_to):
            told = ReplyError(error.code, f"{error.reason}: {error}")
            # It names the bytes and not the signature, which may be another message's: else anyone could have a worker sign
            # refusals of what an operator asked for (docs/adr/0013-signing.md).
            say(to.reply_to, self._dispatch.refusal(to.request_id, to.part, told, digest=self._digest(body)))

    def _permits(self, command: Command, signer: Key, say: Say, private: bool) -> bool:
        """Whether a signed command may be judged: it is this namespace's, not another worker's, and its key suffices."""
        addressed = matches(command.targets, self._worker)
        if command.namespace != self._namespace or (private and not addressed):
            self.admission.drop("misaddressed", f"command {command.order.name!r} is for another worker")
            return False
        if not addressed:
            return False
        try:
            signer.require(command.scope, f"give the command {command.order.name!r}")
        except Untrusted as error:
            self.admission.drop(error.reason, str(error))
            say(command.reply_to, self._refusal(command, str(error)))
            return False
        return True

    def _refusal(self, command: Command, text: str, code: str = "refused") -> bytes:
        return self._dispatch.refused(command, ReplyError(code, text))

    def _digest(self, body: bytes) -> str | None:
        return None if self._trust.keyring is None else digest_of(body)

    def _refuse(self, error: Unreadable, body: bytes, say: Say) -> None:
        """Tell the sender of what can't be read, whose signature holds where there are keys."""
        if not is_reply_name(self._namespace, error.reply_to) or not matches(error.targets, self._worker):
            return  # another namespace's, or for others
        self.admission.drop(error.code, str(error))
        told = ReplyError(error.code, str(error))
        answers = None if self._trust.keyring is None else signature_of(body)
        told_all = self._dispatch.refusal(
            error.request_id, error.part, told, answers=answers, digest=self._digest(body)
        )
        say(error.reply_to, told_all)

    def _obey(self, command: Command, say: Say) -> None:
        order = command.order
        if isinstance(order, (Ping, Shutdown)) or (isinstance(order, Inspect) and not order.revoked):
            self._answer(command, self._dispatch.reply(command), say)
        elif isinstance(order, Revoke):
            answer_by = self._answer_by(command, order.settle)
            self._hand_over(self._taking, command, partial(self._take, command, order, answer_by), say)
        elif isinstance(order, Obey):
            # A thread that has to be woken first stands behind all the others of a busy host: tasks start meanwhile.
            self._obey_directives(command, order, say)
        else:
            lane = self._calling if isinstance(order, Call) else self._asking
            self._hand_over(lane, command, partial(self._carry_out, command), say)

    def _hand_over(self, lane: ThreadPool, command: Command, work: Callable[[], None], say: Say) -> None:
        if not lane.run(work):
            self.admission.drop("overload", f"too many commands wait; {command.order.name!r} is refused")
            self._answer(command, self._busy(command), say)

    def _answer_by(self, command: Command, settle: float) -> float:
        """Until when (monotonic) the reply may be held back."""
        return self._clock.monotonic() + min(settle, timeouts.LONGEST_SETTLE, self.admission.time_to_answer(command))

    def _obey_directives(self, command: Command, order: Obey, say: Say) -> None:
        answer_by = self._answer_by(command, order.settle)
        try:
            obeyed = obey(order, self._view)
        except Exception as failure:  # noqa: BLE001 - it becomes a reply
            # The boundary between the worker's parts and the sender, who must hear something.
            self._answer(command, self._dispatch.failed(command, failure), say)
            return

        def left() -> float:
            return max(0.0, answer_by - self._clock.monotonic())

        def conclude(say: Say, budget: Callable[[], float]) -> None:
            payload = partial(obeyed_payload, obeyed, self._view, budget)
            self._answer(command, self._dispatch.reply(command, payload), say)

        # The reply to a limit says what this worker's share of it is, for which its other threads read the roster now.
        limits = any(one.kind is Kind.RATE_LIMIT for one in order.directives)
        if (obeyed.starting or limits) and left():
            self._hand_over(self._settling, command, partial(conclude, self._later, left), say)
        else:
            conclude(say, lambda: 0.0)

    def _carry_out(self, command: Command) -> None:
        if self.admission.time_left(command) < 0:
            self.admission.drop("stale", f"command {command.order.name!r} expired while it waited for its turn")
            return
        self._answer(command, self._dispatch.reply(command), self._later)

    def _take(self, command: Command, order: Revoke, answer_by: float) -> None:
        try:
            taken = take(order, self._view, self._trust)
        except Exception as failure:  # noqa: BLE001 - it becomes a reply
            # The boundary between the worker's parts and the sender, who must hear something.
            self._answer(command, self._dispatch.failed(command, failure), self._later)
            return
        if taken.awaited and answer_by > self._clock.monotonic():
            self._hand_over(self._settling, command, partial(self._settle, command, taken, answer_by), self._later)
        else:
            self._settle(command, taken, answer_by)

    def _settle(self, command: Command, taken: Taken, deadline: float) -> None:
        budget = max(0.0, deadline - self._clock.monotonic())
        payload = partial(settled, taken, self._view, budget)
        self._answer(command, self._dispatch.reply(command, payload), self._later)

    def _answer(self, command: Command, body: bytes, say: Say) -> None:
        logger.debug("command %s of %s is answered", command.order.name, command.sender or "an unnamed client")
        self.admission.answered(command, body)
        say(command.reply_to, body)

    def _busy(self, command: Command) -> bytes:
        error = ReplyError("busy", f"worker {self._worker} has too many commands to carry out")
        return self._dispatch.refused(command, error)
