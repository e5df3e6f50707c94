"""Every exchange and queue name, and how each is declared.

A worker has two control queues: one bound to the namespace's fanout exchange, and an inbox that is addressed by name
through the default exchange. One queue bound to both hears only the fanout on Redis, and on transports that keep their
bindings in one process's memory (SQLAlchemy, SQS) a named direct exchange loses what other processes send.

Control queues are durable, auto-deleted and expiring: RabbitMQ then removes them at once when their consumer dies and
after ``timeouts.CONTROL_QUEUE_EXPIRES`` when they never had one, and newer versions that refuse transient queues accept them.
Names are ``[a-z0-9-]``, at most 63 characters, which every transport of Kombu accepts.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from kombu.entity import Exchange, Queue

from stem_kombu import timeouts
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import CONTROL_CHARACTER
from stem_kombu.publishing import DeclaredQueue, queue_name

_PLAIN = re.compile(r"[a-z0-9]{1,20}", re.ASCII)
_OTHER = re.compile(r"[^a-z0-9]+", re.ASCII)
#: Stem's control queues; Celery's mailboxes and event queues.
_CONTROL = re.compile(r"stem-[a-z0-9-]+-(ctl|beat)-|.*\.pidbox$|celeryev\.|amq\.", re.ASCII)
_LONGEST_QUEUE_NAME = 255  # bytes; a short string of AMQP


@lru_cache(maxsize=4096)
def slug(identity: str, *, readable: int = 18) -> str:
    """A name in ``[a-z0-9-]`` that no other identity has: its readable part, and 12 digits of its SHA-256."""
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    text = _OTHER.sub("-", identity.lower()).strip("-")[:readable].strip("-")
    return f"{text}-{digest}" if text else digest


def namespace_part(namespace: str) -> str:
    """How a namespace appears in names: as it is when short and plain, else as a slug.

    A plain one has no ``-`` in it and a slug always has, or is 12 hexadecimal digits, so that two never meet.
    """
    if _PLAIN.fullmatch(namespace) and not re.fullmatch(r"[0-9a-f]{12}", namespace):
        return namespace
    return slug(namespace, readable=7)


def broadcast_exchange(namespace: str) -> Exchange:
    """The fanout exchange that carries commands to all workers of a namespace; it stays when they are gone."""
    return Exchange(f"stem-{namespace_part(namespace)}-ctl", type="fanout", durable=True, delivery_mode="transient")


def heartbeat_exchange(namespace: str) -> Exchange:
    """The fanout exchange on which workers publish their heartbeats for whoever follows."""
    return Exchange(f"stem-{namespace_part(namespace)}-beat", type="fanout", durable=True, delivery_mode="transient")


def default_exchange() -> Exchange:
    """The broker's nameless direct exchange: the routing key is the queue's name."""
    return Exchange("", type="direct", delivery_mode="transient")


def broadcast_queue(namespace: str, worker: str, *, expires: float = timeouts.CONTROL_QUEUE_EXPIRES) -> Queue:
    """The queue in which one worker hears what is broadcast in its namespace."""
    name = f"stem-{namespace_part(namespace)}-ctl-b-{slug(worker)}"
    return Queue(name, broadcast_exchange(namespace), durable=True, auto_delete=True, expires=expires)


def inbox_name(namespace: str, worker: str) -> str:
    """The name of a worker's inbox, which is also the routing key that reaches it through the default exchange."""
    return f"stem-{namespace_part(namespace)}-ctl-i-{slug(worker)}"


def inbox_queue(namespace: str, worker: str, *, expires: float = timeouts.CONTROL_QUEUE_EXPIRES) -> Queue:
    """The queue in which one worker gets what is meant for it alone."""
    return direct_queue(inbox_name(namespace, worker), expires=expires)


def reply_name(namespace: str, client: str) -> str:
    """The name of a client's inbox for replies; ``client`` is any text that is unique to the client."""
    return f"stem-{namespace_part(namespace)}-ctl-r-{slug(client, readable=8)}"


def reply_queue(namespace: str, client: str, *, expires: float = timeouts.CONTROL_QUEUE_EXPIRES) -> Queue:
    """The queue in which one client collects the replies to all its commands."""
    return direct_queue(reply_name(namespace, client), expires=expires)


def is_reply_name(namespace: str, name: str) -> bool:
    """Whether that is the name of a reply inbox in the namespace: replies are put nowhere else, whatever a command says.

    A name that somebody made up could be that of a task queue, which on Redis would be given the inbox's expiry.
    """
    prefix = f"stem-{namespace_part(namespace)}-ctl-r-"
    return len(name) <= 63 and name.startswith(prefix) and re.fullmatch(r"[a-z0-9-]+", name, re.ASCII) is not None


def heartbeat_queue(namespace: str, client: str, *, expires: float = timeouts.CONTROL_QUEUE_EXPIRES) -> Queue:
    """The queue in which one follower hears the heartbeats of a namespace."""
    name = f"stem-{namespace_part(namespace)}-beat-{slug(client, readable=8)}"
    return Queue(name, heartbeat_exchange(namespace), durable=True, auto_delete=True, expires=expires)


def direct_queue(name: str, *, expires: float = timeouts.CONTROL_QUEUE_EXPIRES) -> Queue:
    """A private control queue of that name, unbound: reached through the default exchange only.

    A worker that replies declares the same queue where
    :attr:`~stem_kombu.transports.reach.Reach.needs_declare_before_reply` says so: there the sender sets the expiry.
    """
    return Queue(name, durable=True, auto_delete=True, expires=expires)


def task_queue(name: str, *, max_priority: int | None = None) -> Queue:
    """A queue of tasks, as Celery declares it: durable, never deleted, reached through the default exchange.

    Raises :class:`~stem_kombu.errors.ConfigurationError` for a name that a broker can't hold.
    """
    return Queue(checked_queue_name(name), durable=True, max_priority=max_priority)


def unreadable_queue_name(queue: str) -> str:
    """The queue in which a worker keeps what it found in that queue and what is no task."""
    name = f"stem-unreadable-{queue}"
    if len(name.encode("utf-8", "surrogatepass")) > _LONGEST_QUEUE_NAME:
        return f"stem-unreadable-{slug(queue)}"
    return name


def is_control_name(name: str) -> bool:
    """Whether that queue carries control messages or events, of Stem or of Celery, and no tasks."""
    return _CONTROL.match(name) is not None


def checked_queue_name(name: str | DeclaredQueue) -> str:
    """The name as given, or that of a ``kombu.Queue``; raises :class:`~stem_kombu.errors.ConfigurationError` that says what is
    wrong with it."""
    if not isinstance(name, str):
        name = queue_name(name, "a command")
    if not name or name != name.strip():
        raise ConfigurationError(f"queue name {name!r} is blank or begins or ends with a space")
    if CONTROL_CHARACTER.search(name):
        # \x06\x16 separates the fields of Kombu's bindings on Redis.
        raise ConfigurationError(f"queue name {name!r} has a control character in it")
    if len(name.encode("utf-8", "surrogatepass")) > _LONGEST_QUEUE_NAME:
        raise ConfigurationError(f"queue name {name[:40]!r}… is longer than {_LONGEST_QUEUE_NAME} bytes")
    if name.startswith("amq."):
        raise ConfigurationError(
            f"queue name {name!r} begins with 'amq.', which RabbitMQ keeps for itself",
            hint="give the queue another name",
        )
    return name
