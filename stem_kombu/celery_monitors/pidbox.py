"""What Celery's remote control says, read once at the door, and carried out (G17).

Kombu's own node takes whatever arrives for a command: a list ends the connection of the worker that hears it, a pattern
of the matcher ``pcre`` keeps it busy for as long as the sender likes, and its answers go to any exchange that is named.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from stem_kombu.celery_monitors.commands import refusal
from stem_kombu.errors import BadMessage
from stem_kombu.fields import LONGEST_TEXT, is_text, shown

logger = logging.getLogger(__name__)

#: The exchange on which Celery's clients wait for answers; nothing is sent to another.
REPLY_EXCHANGE = "reply.celery.pidbox"
_MOST_DESTINATIONS = 10_000

#: Sends an answer: ``answer(fields, routing_key, ticket)``.
Answer = Callable[[dict[str, object], str, str | None], None]


class PidboxServer:
    """The commands of one node, by method: called with a state, which is ``None``, and the arguments as keywords."""

    def __init__(self, node: str, handlers: Mapping[str, Callable[..., object]], answer: Answer) -> None:
        self._node = node
        self._handlers = handlers
        self._answer = answer

    def heard(self, body: object) -> bool:
        """Whether the message was for this node; it is carried out then, and answered where an answer is wanted.

        Raises :class:`BadMessage` for what is no command.
        """
        if not isinstance(body, dict):
            raise BadMessage(f"a message of Celery's remote control is {type(body).__name__}, not an object")
        if not self._is_for_us(body):
            return False
        method, arguments = _text(body, "method"), body.get("arguments") or {}
        if not isinstance(arguments, dict):
            raise BadMessage(f"the arguments of {method!r} are {type(arguments).__name__}, not an object")
        reply_to, ticket = _reply_to(body), None if body.get("ticket") is None else _text(body, "ticket")
        handler = self._handlers.get(method)
        if handler is None:
            if reply_to is not None:
                self._answer({self._node: refusal(method)}, reply_to, ticket)
            raise BadMessage(f"method {method!r} of Celery's remote control is not known here", code="unknown-command")
        try:
            answer = handler(None, **arguments)
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            # The boundary between this worker's parts and a tool of Celery's, which shows the text.
            logger.info("Celery's %r failed: %r", method, error)
            answer = {"error": repr(error)[:1000]}
        if reply_to is not None:
            self._answer({self._node: answer}, reply_to, ticket)
        return True

    def _is_for_us(self, body: Mapping[str, object]) -> bool:
        destination, pattern, matcher = body.get("destination"), body.get("pattern"), body.get("matcher")
        if destination:
            if not isinstance(destination, list) or len(destination) > _MOST_DESTINATIONS:
                raise BadMessage("destination is not a list of nodes")
            return self._node in destination
        if pattern and matcher:
            if matcher != "glob":
                raise BadMessage(f"patterns are globs here, not {shown(matcher)}")
            return fnmatchcase(self._node, _text(body, "pattern"))
        return True


def _reply_to(body: Mapping[str, object]) -> str | None:
    reply_to = body.get("reply_to")
    if not reply_to:
        return None
    if not isinstance(reply_to, dict) or reply_to.get("exchange") != REPLY_EXCHANGE:
        raise BadMessage(f"an answer is wanted elsewhere than on {REPLY_EXCHANGE!r}")
    return _text(reply_to, "routing_key")


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not is_text(value) or not value.isprintable():
        raise BadMessage(f"{name} {shown(value)} is not printable text of 1 to {LONGEST_TEXT} characters")
    return value
