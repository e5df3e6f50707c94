"""From a URL to its result backend, and to the roster that lives at the same place."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from stem_kombu.backends.base import Backend, Roster
from stem_kombu.backends.rows import RESULT_TTL
from stem_kombu.errors import ConfigurationError
from stem_kombu.settings import EMBEDDED, TlsSettings, mask_url, sqlite_path

ACCEPTED = "redis://, rediss://, redis+sentinel://, postgres://, postgresql://, sqlite:///path or memory://"

_REDIS = frozenset({"redis", "rediss", "redis+socket", "unix", "sentinel", "redis+sentinel"})
_POSTGRES = frozenset({"postgres", "postgresql"})


def open_backend(
    url: str, *, name: str = "URL", tls: TlsSettings | None = None, result_ttl: float = RESULT_TTL
) -> Backend:
    """The result backend of a URL; nothing is connected or created yet.

    ``name`` is the flag or variable that the URL came from; ``result_ttl`` is in seconds. Raises
    :class:`ConfigurationError`, naming it, for a URL that can't be read or can't hold task states.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme in _REDIS:
        from stem_kombu.backends.redis import RedisBackend

        return RedisBackend(url, name=name, tls=tls, result_ttl=result_ttl)
    if scheme in _POSTGRES:
        from stem_kombu.backends.postgres import PostgresBackend

        return PostgresBackend(url, name=name, tls=tls, result_ttl=result_ttl)
    if scheme == "sqlite":
        return _sqlite(sqlite_path(url, name=name), name, result_ttl)
    if scheme == "memory":
        from stem_kombu.backends.memory import MemoryBackend

        return MemoryBackend(url.partition("://")[2].strip("/"))
    raise ConfigurationError(
        f"{name}: {mask_url(url)!r} can't be a result backend", hint=f"set it to one of {ACCEPTED}"
    )


def open_roster(url: str, *, name: str = "URL", tls: TlsSettings | None = None) -> Roster:
    """The roster at a URL, which may be that of a revoke store: beside a file it is the SQLite file ``<path>.roster``.

    Raises :class:`ConfigurationError` as :func:`open_backend` does.
    """
    if "://" not in url and ("/" in url or url.startswith((".", "~"))):
        return _beside(Path(url).expanduser().absolute(), name)
    if url.lower().startswith("file://"):
        return _beside(Path(unquote(urlsplit(url).path)), name)
    return open_backend(url, name=name, tls=tls)


def _beside(path: Path, name: str) -> Roster:
    return _sqlite(path.with_name(path.name + ".roster"), name, RESULT_TTL)


def _sqlite(path: Path, name: str, result_ttl: float) -> Backend:
    from stem_kombu.backends.sqlite import SqliteBackend

    return SqliteBackend(path, create_folder=name == EMBEDDED, result_ttl=result_ttl)
