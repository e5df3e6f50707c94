"""From a command to its reply: the handler of its name, and whatever that raises as an error for the sender."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from stem_kombu.control.base import WorkerView
from stem_kombu.control.codec import BUILT_IN
from stem_kombu.control.handlers.inspect import inspect
from stem_kombu.control.handlers.ping import ping
from stem_kombu.control.handlers.revoke import revoke
from stem_kombu.control.handlers.stats import stats
from stem_kombu.control.messages import Call, Command, Inspect, Order, Ping, Reply, ReplyError, Revoke, Stats
from stem_kombu.errors import ConfigurationError, StemError, UnknownCommand

logger = logging.getLogger(__name__)


class Dispatch:
    """The commands that one worker knows. ``custom`` are the application's, called as ``function(view, **args)``."""

    def __init__(self, view: WorkerView, custom: Mapping[str, Callable[..., Any]]) -> None:
        taken = BUILT_IN & custom.keys()
        if taken:
            raise ConfigurationError(f"control command {sorted(taken)[0]!r} is built in and can't be defined again")
        self._view = view
        self._custom = dict(custom)

    def knows(self, name: str) -> bool:
        """Whether a command of that name would be carried out."""
        return name in BUILT_IN or name in self._custom

    @staticmethod
    def may_wait(order: Order) -> bool:
        """Whether the command may take a moment, and must not hold up those that don't (G16)."""
        return not isinstance(order, (Ping, Inspect))

    def reply(self, command: Command) -> Reply:
        """Carry the command out; every failure becomes a reply with an error."""
        try:
            payload, error = self._payload(command.order), None
        except StemError as failure:
            payload, error = {}, ReplyError(getattr(failure, "code", "failed"), str(failure))
        except Exception as failure:
            # The boundary between a handler, perhaps an application's, and the sender, who must hear something.
            logger.exception("control command %r failed", command.order.name, extra={"request_id": command.request_id})
            payload, error = {}, ReplyError("failed", f"{type(failure).__name__}: {failure}"[:2000] or "failed")
        return self.answer(command.request_id, command.part, payload, error)

    def answer(self, request_id: str, part: int, payload: Mapping[str, Any], error: ReplyError | None) -> Reply:
        """A reply of this worker."""
        who = self._view.identity
        return Reply(request_id, who.namespace, who.worker, who.boot, payload, error, part)

    def _payload(self, order: Order) -> Mapping[str, Any]:
        if isinstance(order, Ping):
            return ping(order, self._view)
        if isinstance(order, Inspect):
            return inspect(order, self._view)
        if isinstance(order, Stats):
            return stats(order, self._view)
        if isinstance(order, Revoke):
            return revoke(order, self._view)
        return self._call(order)

    def _call(self, order: Call) -> Mapping[str, Any]:
        function = self._custom.get(order.name)
        if function is None:
            raise UnknownCommand(f"command {order.name!r} is not known to this worker")
        result = function(self._view, **order.args)
        return result if isinstance(result, dict) else {"result": result}
