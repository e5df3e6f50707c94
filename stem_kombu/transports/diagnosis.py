"""What a driver's error means, by its class and code, and what to do about it.

A server's words are read only where neither class nor code tells two causes apart: they differ by version and language.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from stem_kombu.drivers.diagnosis import Diagnosis, by_class, by_words
from stem_kombu.drivers.postgres_meanings import meaning_of

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
    "WRONGTYPE": Diagnosis(
        "the key of a queue holds another type than a list of messages, so another program uses it",
        "use another database or queue name; `redis-cli TYPE QUEUE` shows what is there",
        True,
    ),
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
    405: Diagnosis("another connection uses the queue exclusively", "close it, or use another queue"),
    406: Diagnosis("the broker refuses the operation", "compare the arguments with which the queue was declared"),
    506: Diagnosis("the broker lacks resources", "look at its memory, disk and log"),
}
_HELD_TOO_LONG = Diagnosis(
    "a worker held a message for longer than the broker's consumer_timeout, so it is delivered again",
    "raise consumer_timeout on the broker above the longest task, or give the task a time_limit below it",
)
#: SQLite's, by its words; and those of SQLAlchemy and of its databases that have no code.
_SQLITE_MEANING = (
    ("unable to open database file", Diagnosis("", "make the folder of the file, and allow this user to write there")),
    ("readonly database", Diagnosis("", "allow this user to write the file and its folder")),
    ("not a database", Diagnosis("", "another program's file is there: give another path", True)),
    ("malformed", Diagnosis("", "the file is damaged: put a copy back, or remove it with what waits in it", True)),
    ("is full", Diagnosis("", "make room on the disk")),
    ("locked", Diagnosis("", "another program holds the file: end its transaction")),
)
_DATABASE_MEANING = (
    (
        "no answer within",
        Diagnosis(
            "",
            "check that the server is not locked up; where a pooler such as PgBouncer stands before it, that its pool has a free"
            " connection (SHOW POOLS; raise default_pool_size)",
        ),
    ),
    ("QueuePool limit", Diagnosis("", "raise pool_size or max_overflow in the transport options of the broker")),
    (
        "invalid connection option",
        Diagnosis(
            "", "what SQLAlchemy's engine takes, as pool_size, is a transport option and not part of the URL", True
        ),
    ),
    ("query_wait_timeout", Diagnosis("", "the pooler has no free connection: raise its default_pool_size")),
    ("server closed the connection", Diagnosis("", "it was ended by the server or by a pooler: look at their logs")),
)
#: SQS, by botocore's class and by the service's code.
_SQS_MEANING = {
    "NoCredentialsError": Diagnosis("", "write sqs://KEY:SECRET@, or give credentials as boto3 finds them", True),
    "NoRegionError": Diagnosis("", "give the transport option region", True),
    "EndpointConnectionError": Diagnosis(
        "", "check host and port in the broker URL, and the transport options region and is_secure"
    ),
    "SSLError": Diagnosis("", "where the server speaks no TLS give the transport option is_secure=false"),
    "HTTPClientError": Diagnosis("", "check host and port in the broker URL, and that an SQS service answers there"),
}
_SQS_CODES = {
    **dict.fromkeys(
        ("InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException"),
        Diagnosis("", "check key and secret in the broker URL", True),
    ),
    **dict.fromkeys(
        ("AccessDenied", "AccessDeniedException"),
        Diagnosis("", "allow this key the action that the error names, for this queue", True),
    ),
}
_FOLDERS = "correct data_folder_in, data_folder_out and control_folder in the broker's transport options"
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
    found = _amqp(error) or _redis(error, text) or _database(error, text) or _sqs(error) or _file(error)
    found = found or _system(error, text)
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
    if (
        code == 406 and "acknowledgement" in str(error) and "timed out" in str(error)
    ):  # the code of a refused declaration as well
        return _HELD_TOO_LONG
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
    if "WRONGTYPE" in text:  # behind the command, where it was one of a pipeline
        return _REDIS_MEANING["WRONGTYPE"]
    return None


def _database(error: BaseException, text: str) -> Diagnosis | None:
    """An error of a database's driver, or one of SQLAlchemy's own."""
    kind = type(error).__module__
    if kind.startswith("sqlite3"):
        return by_words(_SQLITE_MEANING, text)
    if not kind.startswith("psycopg"):
        return (
            by_words(_DATABASE_MEANING, text) if kind.startswith("sqlalchemy") or type(error) is TimeoutError else None
        )
    code = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None) or ""
    return by_words(_DATABASE_MEANING, text) or meaning_of(str(code), text)


def _sqs(error: BaseException) -> Diagnosis | None:
    if not type(error).__module__.startswith("botocore"):
        return None
    answer = getattr(error, "response", None) or {}
    return _SQS_CODES.get(str(answer.get("Error", {}).get("Code"))) or by_class(_SQS_MEANING, error)


def _file(error: BaseException) -> Diagnosis | None:
    """Of the filesystem's folders: a driver that speaks to a socket has errors of its own."""
    if not isinstance(error, OSError) or error.filename is None or isinstance(error, ConnectionError):
        return None
    if isinstance(error, PermissionError):
        return Diagnosis("", f"allow this user to write there, or {_FOLDERS}")
    return Diagnosis("", f"make the folder, or {_FOLDERS}")


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
