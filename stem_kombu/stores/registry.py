"""From a URL to its revoke store: the schemes that are built in, and those that plug-ins add."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stem_kombu.errors import ConfigurationError
from stem_kombu.settings import EMBEDDED, TlsSettings, mask_url, sqlite_path
from stem_kombu.stores.base import RevokeStore

#: Plug-ins register here: the entry point's name is the URL scheme, its value a callable ``(url, tls) -> RevokeStore``.
ENTRY_POINT_GROUP = "stem_kombu.revoke_stores"

_Opener = Callable[[str, str, "TlsSettings | None"], RevokeStore]


def open_revoke_store(url: str, *, name: str = "URL", tls: TlsSettings | None = None) -> RevokeStore:
    """The revoke store of a URL; nothing is connected or created yet.

    ``name`` is the flag or variable that the URL came from. Raises :class:`ConfigurationError`, naming it, for a URL
    that can't be read, for one that can't hold revocations, and when the driver is not installed.
    """
    if "://" not in url:
        return _open_bare_path(url, name)
    scheme = url.partition("://")[0].lower()
    if (opener := _BUILT_IN.get(scheme)) is not None:
        return opener(url, name, tls)
    plugins = _plugins()
    if scheme in plugins:
        return _open_plugin(plugins[scheme], url, name, tls)
    known = ", ".join(f"{known}://" for known in sorted({*_BUILT_IN, *plugins}))
    raise ConfigurationError(
        f"{name}: {mask_url(url)!r} can't hold revocations ({scheme}:// is no revoke store)",
        hint=f"set STEM_REVOKE_STORE_URL (or --revoke-store) to one of {known} or the path of a file",
    )


def _redis(url: str, name: str, tls: TlsSettings | None) -> RevokeStore:
    from stem_kombu.stores.redis import RedisRevokeStore

    return RedisRevokeStore(url, name=name, tls=tls)


def _postgres(url: str, name: str, tls: TlsSettings | None) -> RevokeStore:
    from stem_kombu.stores.postgres import PostgresRevokeStore

    return PostgresRevokeStore(url, name=name, tls=tls)


def _sqlite(url: str, name: str, tls: TlsSettings | None) -> RevokeStore:
    from stem_kombu.stores.sqlite import SqliteRevokeStore

    return SqliteRevokeStore(sqlite_path(url, name=name), create_folder=name == EMBEDDED)


def _memory(url: str, name: str, tls: TlsSettings | None) -> RevokeStore:
    from stem_kombu.stores.memory import MemoryRevokeStore

    return MemoryRevokeStore(url.partition("://")[2].strip("/"))


def _file(url: str, name: str, tls: TlsSettings | None) -> RevokeStore:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in {"", "localhost"} or not path.strip("/"):
        raise ConfigurationError(
            f"{name}: {mask_url(url)!r} names no file on this host", hint="write file:///absolute/path (three slashes)"
        )
    return _open_file(Path(path))


def _open_bare_path(text: str, name: str) -> RevokeStore:
    # A bare word is refused: it would create a file in whatever folder the command happens to run in, and a worker
    # that runs in another one would never see it.
    if not ("/" in text or text.startswith((".", "~"))):
        raise ConfigurationError(
            f"{name}: {text!r} is neither a URL nor the path of a file",
            hint=f"write file:///path/to/{text}, or ./{text} if the current folder is really meant",
        )
    return _open_file(Path(text).expanduser().absolute())


def _open_file(path: Path) -> RevokeStore:
    from stem_kombu.stores.file import FileRevokeStore

    return FileRevokeStore(path)


_BUILT_IN: dict[str, _Opener] = {
    "redis": _redis,
    "rediss": _redis,
    "redis+socket": _redis,
    "unix": _redis,
    "sentinel": _redis,
    "redis+sentinel": _redis,
    "postgres": _postgres,
    "postgresql": _postgres,
    "sqlite": _sqlite,
    "file": _file,
    "memory": _memory,
}


def _plugins() -> dict[str, EntryPoint]:
    return {point.name.lower(): point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _open_plugin(point: EntryPoint, url: str, name: str, tls: TlsSettings | None) -> RevokeStore:
    where = f"{name}: {mask_url(url)!r}: the revoke store plug-in {point.value}"
    try:
        factory = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{where} can't be imported: {error}", hint="install or repair the plug-in") from error
    store = factory(url, tls)
    if not isinstance(store, RevokeStore):
        raise ConfigurationError(f"{where} gave {type(store).__name__}, which is no RevokeStore")
    return store
