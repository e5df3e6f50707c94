"""From a URL to its result backend, and to the roster that is kept there or beside the revocations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stem_kombu import timeouts
from stem_kombu.backends.base import Backend, Roster
from stem_kombu.errors import ConfigurationError
from stem_kombu.redaction import mask_url
from stem_kombu.settings import EMBEDDED, TlsSettings
from stem_kombu.urls import POSTGRES_SCHEMES, REDIS_SCHEMES, SQLITE_SCHEMES, file_path, scheme_of, sqlite_path
from stem_kombu.volatile import NO_STORE

if TYPE_CHECKING:
    from stem_kombu.backends.failed import FailedMessages

_ACCEPTED = "redis://, rediss://, redis+sentinel://, postgres://, postgresql://, sqlite:///path or memory://"


def open_backend(
    url: str, *, name: str = "URL", tls: TlsSettings | None = None, result_ttl: float = timeouts.RESULT_TTL
) -> Backend:
    """The result backend of a URL; nothing is connected or created yet.

    ``name`` is the flag or variable that the URL came from; ``result_ttl`` the seconds for which the record of a task
    that ended is kept. Raises :class:`ConfigurationError`, naming ``name``, for a URL that can't be read, for one that
    can't hold task states, and when the driver is not installed.
    """
    backend = _opened(url, name, tls, result_ttl, "result backend")
    if backend is None:
        raise _refusal(url, name, "task states", "no result backend")
    return backend


def open_roster(
    source_url: str, *, name: str = "URL", tls: TlsSettings | None = None, patience: float | None = None
) -> Roster:
    """The roster of live workers at the URL of a backend or a revoke store; nothing is connected or created yet.

    A server that is silent for ``patience`` seconds (default: the driver's own timeouts) counts as down.

    Beside a revoke store that is a file (``file:///path`` or a bare path) it is the SQLite file ``<path>.roster``.
    Raises :class:`ConfigurationError` as :func:`open_backend` does.
    """
    if name == NO_STORE:
        from stem_kombu.backends.volatile import NoRoster

        return NoRoster()
    if scheme_of(source_url) in {"file", None}:
        return _sqlite(Path(f"{file_path(source_url, name=name)}.roster"), name, timeouts.RESULT_TTL, "roster")
    roster = _opened(source_url, name, tls, timeouts.RESULT_TTL, "roster", patience)
    if roster is None:
        raise _refusal(source_url, name, "the roster of live workers", "no place for it")
    return roster


def open_failed_messages(url: str, *, name: str = "URL", tls: TlsSettings | None = None) -> FailedMessages:
    """The place for messages of failed tasks at the URL of a result backend; nothing is connected or created yet.

    It is apart from the task states: where the tables can't be made, only the messages are not kept.
    """
    scheme = scheme_of(url)
    if scheme in REDIS_SCHEMES:
        from stem_kombu.backends.failed_redis import RedisFailedMessages

        return RedisFailedMessages(url, name=name, tls=tls)
    if scheme in POSTGRES_SCHEMES:
        from stem_kombu.backends.failed_postgres import PostgresFailedMessages

        return PostgresFailedMessages(url, name=name, tls=tls)
    if scheme in SQLITE_SCHEMES:
        from stem_kombu.backends.failed_sqlite import SqliteFailedMessages

        return SqliteFailedMessages(sqlite_path(url, name=name), create_folder=name == EMBEDDED)
    if scheme == "memory":
        from stem_kombu.backends.failed import MemoryFailedMessages

        return MemoryFailedMessages(url.partition("://")[2].strip("/"))
    raise _refusal(url, name, "messages of failed tasks", "no result backend")


def _opened(
    url: str, name: str, tls: TlsSettings | None, result_ttl: float, purpose: str, patience: float | None = None
) -> Backend | None:
    # Each driver is imported only when it is asked for.
    scheme = scheme_of(url)
    if scheme in REDIS_SCHEMES:
        from stem_kombu.backends.redis import RedisBackend

        return RedisBackend(url, name=name, tls=tls, result_ttl=result_ttl, purpose=purpose, patience=patience)
    if scheme in POSTGRES_SCHEMES:
        from stem_kombu.backends.postgres import PostgresBackend

        return PostgresBackend(url, name=name, tls=tls, result_ttl=result_ttl, purpose=purpose, patience=patience)
    if scheme in SQLITE_SCHEMES:
        return _sqlite(sqlite_path(url, name=name), name, result_ttl, purpose)
    if scheme == "memory":
        from stem_kombu.backends.memory import MemoryBackend

        return MemoryBackend(url.partition("://")[2].strip("/"), result_ttl=result_ttl)
    return None


def _sqlite(path: Path, name: str, result_ttl: float, purpose: str) -> Backend:
    from stem_kombu.backends.sqlite import SqliteBackend

    return SqliteBackend(path, create_folder=name == EMBEDDED, result_ttl=result_ttl, purpose=purpose)


def _refusal(url: str, name: str, what: str, why: str) -> ConfigurationError:
    scheme = scheme_of(url)
    return ConfigurationError(
        f"{name}: {mask_url(url)!r} can't hold {what} ({'a path' if scheme is None else f'{scheme}://'} is {why})",
        hint=f"set STEM_RESULT_BACKEND_URL (or --backend, in Python backend=) to one of {_ACCEPTED}",
    )
