"""What a driver's error means, by its class and code, and what to do about it.

A server's words are read only where neither class nor code tells two causes apart: they differ by version and language.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from stem_kombu.drivers.diagnosis import Diagnosis

#: Redis: classes of redis-py and the words that begin an answer, which it cuts off where it knows them.
_REDIS = {
    "AuthenticationError": "WRONGPASS",
    "AuthenticationWrongNumberOfArgsError": "WRONGPASS",
    "NOAUTH": "WRONGPASS",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "MovedError": "MOVED",
    "AskError": "MOVED",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MasterNotFoundError": "MASTERNOTFOUND",
    "MaxConnectionsError": "MAXCLIENTS",
}
_REDIS_MEANING = {
    "WRONGPASS": Diagnosis("user or password was not accepted", "check user and password in the broker URL", True),
    "NOPERM": Diagnosis(
        "this user has no right to a command, key or channel", "give it with ACL SETUSER on the server", True
    ),
    "OOM": Diagnosis("the server is out of memory", "raise maxmemory, or let workers drain its queues"),
    "READONLY": Diagnosis("the server is a read-only replica", "give the URL of the master, or of the sentinels"),
    "LOADING": Diagnosis("the server is loading its data", "wait until it has"),
    "MISCONF": Diagnosis("the server refuses writes, as it can't save its data", "look at its disk and its log"),
    "MOVED": Diagnosis("the server is part of a Redis Cluster, which Kombu can't use", "give a plain Redis", True),
    "CLUSTERDOWN": Diagnosis("the Redis Cluster is down", "give a plain Redis; Kombu can't use a cluster", True),
    "MASTERDOWN": Diagnosis("the replica has lost its master", "give the URL of the master, or of the sentinels"),
    "MASTERNOTFOUND": Diagnosis("", "check the sentinels' addresses and password, and the master's name"),
    "MAXCLIENTS": Diagnosis("the server has no connection left", "raise maxclients, or close idle clients"),
}
#: AMQP's classes of methods that have to do with the connection itself: login, and opening the virtual host.
_CONNECTION = 10
_AMQP_MEANING = {
    311: Diagnosis("the message is too large for the broker", "store large data elsewhere and send where it is", True),
    320: Diagnosis("the broker closed the connection", "it shuts down, or an administrator closed it"),
    403: Diagnosis(
        "this user has no right to do that",
        "give it configure, write and read rights: rabbitmqctl set_permissions",
        True,
    ),
    404: Diagnosis(
        "a queue or exchange is missing, or the node that holds it is down", "start that node, or declare the queue"
    ),
    405: Diagnosis("another connection holds the queue for itself", "close it, or use another queue"),
    406: Diagnosis("the broker refuses the operation", "compare the arguments with which the queue was declared"),
    506: Diagnosis("the broker lacks resources", "look at its memory, disk and log"),
}
#: The system's errors, by class or by words of a driver that says no more; the more special ones first.
_SYSTEM: tuple[tuple[tuple[type[BaseException], ...], tuple[str, ...], Diagnosis], ...] = (
    (
        (socket.gaierror,),
        ("name or service not known",),
        Diagnosis("the host name can't be resolved", "check the host in the broker URL"),
    ),
    (
        (ConnectionRefusedError,),
        ("connection refused",),
        Diagnosis("connection refused", "check that the broker runs at that host and port"),
    ),
    ((TimeoutError,), ("timed out", "timeout"), Diagnosis("no answer in time", "check host, port and firewall")),
    (
        (ConnectionError, EOFError),
        ("closed",),
        Diagnosis("the connection was closed", "if the server expects TLS, write rediss:// or amqps://"),
    ),
)


def diagnosed(error: BaseException, text: str) -> Diagnosis:
    """What the driver's ``error`` means; ``text`` is what it says, on one line."""
    found = _amqp(error) or _redis(error, text) or _system(error, text)
    if found is None:
        return Diagnosis(text if isinstance(error, OSError) else f"{text} ({type(error).__name__})", None)
    return found._replace(what=found.sentence(text))


def _amqp(error: BaseException) -> Diagnosis | None:
    code = getattr(error, "reply_code", None) or getattr(error, "code", None)
    if not type(error).__module__.startswith("amqp") or not isinstance(code, int):
        return None
    signature = getattr(error, "method_sig", None) or (0, 0)
    if code == 403 and signature[0] in (0, _CONNECTION):
        return _REDIS_MEANING["WRONGPASS"]
    if code == 530:
        if signature[0] == _CONNECTION and "limit" not in str(error):  # the same method and code tell of a full server
            return Diagnosis("the virtual host can't be opened", "create it, or allow this user to use it", True)
        return Diagnosis("the broker does not allow that", "look at its limits and its log")
    return _AMQP_MEANING.get(code)


def _redis(error: BaseException, text: str) -> Diagnosis | None:
    kind, _, _ = text.partition(" ")
    name = next((one.__name__ for one in type(error).__mro__ if one.__name__ in _REDIS), None)
    if name is None and not type(error).__module__.startswith("redis"):
        return None
    found = _REDIS_MEANING.get(_REDIS.get(name or kind, kind))
    if found is not None:
        return found
    if "DB index" in text:
        return Diagnosis("", "the number after the last slash must be a database that the server has", True)
    if "max number of clients" in text:
        return _REDIS_MEANING["MAXCLIENTS"]
    return None


def _system(error: BaseException, text: str) -> Diagnosis | None:
    chain, lowered = list(_chain(error)), text.lower()
    for classes, words, found in _SYSTEM:
        if any(isinstance(one, classes) for one in chain) or any(word in lowered for word in words):
            return found
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those it came from: redis-py makes errors of its own of the system's."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
