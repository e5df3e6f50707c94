"""From a command to its reply: the handler of its name, and whatever that raises as an error for the sender."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from stem_kombu.control.protocol.codec import BUILT_IN, encode_reply
from stem_kombu.control.protocol.messages import (
    Call,
    Command,
    Inspect,
    Order,
    Ping,
    Reply,
    ReplyError,
    Rules,
    Select,
    Shutdown,
    Stats,
)
from stem_kombu.control.server.handlers.inspect import inspect
from stem_kombu.control.server.handlers.ping import ping
from stem_kombu.control.server.handlers.selecting import rules, select
from stem_kombu.control.server.handlers.shutdown import shutdown
from stem_kombu.control.server.handlers.stats import stats
from stem_kombu.control.server.worker_view import WorkerView
from stem_kombu.control.verification import Verifier
from stem_kombu.errors import BadMessage, ConfigurationError, StemError, UnknownCommand
from stem_kombu.signing.keyring import Scope

logger = logging.getLogger(__name__)


class Dispatch:
    """The commands that one worker knows. ``custom`` are the application's, called as ``function(view, **args)``."""

    def __init__(self, view: WorkerView, custom: Mapping[str, Callable[..., object]], trust: Verifier) -> None:
        taken = BUILT_IN & custom.keys()
        if taken:
            raise ConfigurationError(f"control command {sorted(taken)[0]!r} is built in and can't be defined again")
        self._view = view
        self._trust = trust
        # Kept, not copied: an application may define commands after its worker was made.
        self._custom = custom

    def knows(self, name: str) -> bool:
        """Whether a command of that name would be carried out."""
        return name in BUILT_IN or name in self._custom

    def reply(self, command: Command, payload: Callable[[], Mapping[str, object]] | None = None) -> bytes:
        """The reply that holds the ``payload``: by default of a command that has no second half, which is carried out for it.
        Every failure becomes a reply with an error."""
        try:
            answers, digest = command.signature, command.digest
            held = self._payload(command) if payload is None else payload()
            answer = self._answer(command.request_id, command.part, held, None, answers, digest)
            reply = encode_reply(answer, self._trust.keyring)
            self._view.commands.add(command.order.name, "ok")
            return reply
        except Exception as failure:  # noqa: BLE001 - it becomes a reply
            # The boundary between a handler, perhaps an application's, and the sender, who must hear something.
            return self.failed(command, failure)

    def failed(self, command: Command, failure: Exception) -> bytes:
        """The reply that tells of a failure."""
        if isinstance(failure, StemError):
            error = ReplyError(getattr(failure, "code", "failed"), str(failure))
        else:
            logger.error(
                "control command %r failed", command.order.name, exc_info=failure,
                extra={"request_id": command.request_id},
            )  # fmt: skip
            error = ReplyError("failed", f"{type(failure).__name__}: {failure}")
        return self.refused(command, error)

    def refused(self, command: Command, error: ReplyError) -> bytes:
        """A reply to a command that holds nothing but an error."""
        answers, digest = command.signature, command.digest
        self._view.commands.add(command.order.name, "error")
        return self.refusal(command.request_id, command.part, error, answers=answers, digest=digest)

    def refusal(
        self, request_id: str, part: int, error: ReplyError, *, answers: str | None = None, digest: str | None = None
    ) -> bytes:
        """A reply that holds nothing but an error, to a message that may be no command.

        ``answers`` is its signature where that was verified; ``digest`` the SHA-256 of its bytes, which anyone may have sent.
        """
        return encode_reply(self._answer(request_id, part, {}, error, answers, digest), self._trust.keyring)

    def _answer(
        self,
        request_id: str,
        part: int,
        payload: Mapping[str, object],
        error: ReplyError | None,
        answers: str | None,
        digest: str | None,
    ) -> Reply:
        who = self._view.identity
        if not who.durable:
            payload = {**payload, "durable": False}
        return Reply(request_id, who.namespace, who.worker, who.boot, payload, error, part, answers, digest)

    def _payload(self, command: Command) -> Mapping[str, object]:
        order: Order = command.order
        if isinstance(order, Ping):
            return ping(order, self._view)
        if isinstance(order, Inspect):
            key = command.signer
            return inspect(order, self._view, show_args=key is None or Scope.READ_ARGS in key.scopes)
        if isinstance(order, Stats):
            return stats(order, self._view)
        if isinstance(order, Shutdown):
            return shutdown(order, self._view)
        if isinstance(order, Select):
            return select(order, self._view)
        if isinstance(order, Rules):
            return rules(order, self._view, self._trust)
        if isinstance(order, Call):
            return self._call(order)
        raise BadMessage(f"command {order.name!r} is carried out in two halves")

    def _call(self, order: Call) -> Mapping[str, object]:
        function = self._custom.get(order.name)
        if function is None:
            raise UnknownCommand(f"command {order.name!r} is not known to this worker")
        result = function(self._view, **order.args)
        return result if isinstance(result, dict) else {"result": result}
