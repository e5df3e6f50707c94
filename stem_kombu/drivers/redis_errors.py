"""What an error of redis-py means for a store or a result backend, by its class and by the server's answer."""

from __future__ import annotations

from stem_kombu.drivers.diagnosis import Diagnosis, by_class, by_words

_PASSWORD = Diagnosis("the password was not accepted", "check user and password", True)
_MEMORY = Diagnosis("the server is out of memory", "raise maxmemory, or prune")
_REPLICA = Diagnosis("this server is a read-only replica", "give the URL of the master")
_RIGHTS = Diagnosis("", "allow this user EVAL and EVALSHA on the keys of its namespace", True)
SENTINELS = Diagnosis("", "check the sentinels' addresses and the master's name")
UNREACHABLE = Diagnosis("", "check that the server runs at that host and port")
_BUSY = Diagnosis("", None)
_BY_WORDS = (
    ("NOAUTH", _PASSWORD),
    ("WRONGPASS", _PASSWORD),
    ("DB index", Diagnosis("", "the number after the last slash must be a database it has", True)),
    ("OOM ", _MEMORY),
    ("maxmemory", _MEMORY),
    (
        "max number of clients",
        Diagnosis("the server has no connection left", "raise maxclients, or close idle clients"),
    ),
)
#: By the word that begins an answer; redis-py cuts it off where it has a class for it.
_BY_ANSWER = {
    "READONLY": _REPLICA,
    "NOPERM": _RIGHTS,
    **dict.fromkeys(("MISCONF", "BUSY", "LOADING", "MASTERDOWN", "CLUSTERDOWN"), _BUSY),
}
_BY_CLASS = {
    "AuthenticationError": _PASSWORD,
    "MasterNotFoundError": SENTINELS,
    "InvalidResponse": Diagnosis("what answers there is not Redis", "check host and port"),
    "TimeoutError": Diagnosis("no answer in time", "check that the server runs and is reachable"),
    "BusyLoadingError": _BUSY,
    "ReadOnlyError": _REPLICA,
    "NoPermissionError": _RIGHTS,
    "ConnectionError": UNREACHABLE,
    "OSError": UNREACHABLE,
}


def meaning(error: Exception, text: str) -> Diagnosis | None:
    """What the error means, ``None`` where nothing is known of it; ``text`` is its message on one line."""
    return by_words(_BY_WORDS, text) or _BY_ANSWER.get(text.partition(" ")[0]) or by_class(_BY_CLASS, error)
