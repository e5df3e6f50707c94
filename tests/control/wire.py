"""Somebody at the broker who says to workers whatever a test wants said, and hears each reply that is sent to him."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.connection import ClientConnection
from stem_kombu.control.protocol.codec import encode_command
from stem_kombu.control.protocol.messages import Command, Order, Ping, Reply, Revoke
from stem_kombu.revocation import Revocation
from stem_kombu.transports import names
from stem_kombu.transports.connections import connect, open_connection
from stem_kombu.transports.registry import open_transport
from tests.waiting import eventually


def revocation(task_id: str, version: int = 1, *, terminate: bool = False, namespace: str = "stem") -> Revocation:
    return Revocation(namespace, task_id, version, SYSTEM.utcnow(), terminate)


def revoke_order(*task_ids: str, terminate: bool = False, settle: float = 0.0) -> Revoke:
    return Revoke(tuple(revocation(task_id, terminate=terminate) for task_id in task_ids), settle)


def a_command(order: Order, reply_to: str, *, now: datetime | None = None, **changes: Any) -> Command:
    """A command that is good in every respect but for the ``changes``."""
    now = now or SYSTEM.utcnow()
    namespace = changes.get("namespace", "stem")
    command = Command(secrets.token_hex(8), namespace, order, now, now + timedelta(seconds=30), reply_to)
    return replace(command, **changes)


class Wire:
    """Used by one thread, and closed. Within one worker's inbox what is said first is heard first."""

    def __init__(self, url: str, namespace: str = "stem") -> None:
        self.url, self.namespace = url, namespace
        self._connection = ClientConnection(
            open_transport(open_connection(url)).control(clock=SYSTEM), namespace, timeout=5.0, clock=SYSTEM
        )
        self._plain: Any = None
        self.reply_to = self._connection.reply_to
        #: Every reply that arrived, in order.
        self.replies: list[Reply] = []

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        if self._plain is not None:
            self._plain.release()

    def command(self, order: Order, **changes: Any) -> Command:
        return a_command(order, self.reply_to, **changes)

    def tell(self, worker: str, order: Order, **changes: Any) -> Command:
        """Put a command into a worker's inbox."""
        command = self.command(order, **changes)
        self.put(worker, encode_command(command))
        return command

    def put(self, worker: str, body: bytes) -> None:
        """Put bytes into a worker's inbox, in the envelope of a command."""
        self._connection.send_to(body, [worker], expires=30.0)

    def shout(self, body: bytes) -> None:
        """Broadcast bytes in the envelope of a command."""
        self._connection.broadcast(body, [], expires=30.0)

    def put_in_envelope(self, worker: str, body: Any, **envelope: Any) -> None:
        """Put a message into a worker's inbox as Kombu sends it with those properties."""
        from kombu import Producer

        if self._plain is None:
            self._plain = connect(open_connection(self.url))
        inbox = names.inbox_queue(self.namespace, worker)
        producer = Producer(self._plain.default_channel, auto_declare=False)
        producer.publish(body, exchange="", routing_key=inbox.name, retry=False, **envelope)

    def listen(self) -> None:
        """Hear what there is, a moment at most."""
        self.replies += self._connection.listen(SYSTEM.monotonic() + 0.05)

    def until(self, heard: Callable[[], object], message: str | None = None) -> None:
        """Listen until that is so."""

        def asked() -> object:
            self.listen()
            return heard()

        eventually(asked, message=message, interval=0.0)

    def replies_to(self, command: Command) -> list[Reply]:
        return [reply for reply in self.replies if (reply.request_id, reply.part) == (command.request_id, command.part)]

    def reply(self, command: Command) -> Reply:
        """The first reply to a command."""
        self.until(lambda: self.replies_to(command), f"no reply to {command.order.name}")
        return self.replies_to(command)[0]

    def ping(self, worker: str) -> Reply:
        """Once this is answered, the worker has met all that was put into its inbox before."""
        return self.reply(self.tell(worker, Ping()))


def fields_of(command: Command) -> dict[str, Any]:
    """A command as the JSON object that travels."""
    fields: dict[str, Any] = json.loads(encode_command(command))
    return fields
