"""What PostgreSQL's errors mean to an operator, by SQLSTATE and, at login, by the server's words."""

from __future__ import annotations

from stem_kombu.drivers.diagnosis import Diagnosis, by_words

_PASSWORD = Diagnosis("", "check user and password", True)
_DATABASE = Diagnosis("", "create the database (createdb), or name one that exists", True)
_FULL = Diagnosis("", "raise max_connections or the role's limit, or put a pooler before the server")
_STARTING = Diagnosis("", "wait until the server has started")
_TIMED_OUT = Diagnosis(
    "no answer in time",
    "check that the server runs and is not locked up, and that a pooler before it (in transaction mode) has a free connection",
)
#: By SQLSTATE.
_BY_CODE = {
    "25006": Diagnosis("the server, database or role is read-only", "give the URL of the primary, or allow writing"),
    "28000": _PASSWORD,
    "28P01": _PASSWORD,
    "3D000": _DATABASE,
    "42501": Diagnosis("", "grant this user CREATE on the schema, or make the tables beforehand and grant them", True),
    "53100": Diagnosis("the server's disk is full", "make room on it"),
    "53200": Diagnosis("the server is out of memory", "look at its limits"),
    "53300": _FULL,
    "55P03": _TIMED_OUT,
    "57014": _TIMED_OUT,
    "57P03": _STARTING,
}
#: The same at login, where libpq hands on no code: by the server's words, the more special ones first.
_AT_LOGIN = (
    ("too many connections", _FULL),
    ("too many clients", _FULL),
    ("remaining connection slots", _FULL),
    ("starting up", _STARTING),
    ("no encryption", Diagnosis("", "set STEM_TLS_CA_CERT, and this server is reached with TLS and verified", True)),
    ("password authentication failed", _PASSWORD),
    ("no password supplied", _PASSWORD),
    ("authentication failed", _PASSWORD),
    ("pg_hba.conf", Diagnosis("", "check user and password, and the server's pg_hba.conf", True)),
    ("permitted to log in", _PASSWORD),
    ('role "', _PASSWORD),
    ("does not exist", _DATABASE),
)


def meaning_of(code: str, text: str) -> Diagnosis | None:
    """``code`` is the SQLSTATE, empty where the driver has none; ``text`` is what it says. ``None``: nothing is known of it."""
    return _BY_CODE.get(code) or by_words(_AT_LOGIN, text)
