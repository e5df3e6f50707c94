"""From a URL to its revoke store: the schemes that are built in, and those that plug-ins add."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from stem_kombu.errors import ConfigurationError
from stem_kombu.redaction import mask_url
from stem_kombu.settings import EMBEDDED, TlsSettings
from stem_kombu.stores.base import RevokeStore
from stem_kombu.urls import POSTGRES_SCHEMES, REDIS_SCHEMES, SQLITE_SCHEMES, file_path, scheme_of, sqlite_path
from stem_kombu.volatile import BUILT_IN, NO_STORE

# The entry point's name is the URL scheme, its value a callable ``(url, tls) -> RevokeStore``.
from stem_kombu.volatile import ENTRY_POINT_GROUP as ENTRY_POINT_GROUP


def open_revoke_store(
    url: str, *, name: str = "URL", tls: TlsSettings | None = None, patience: float | None = None
) -> RevokeStore:
    """The revoke store of a URL; nothing is connected or created yet.

    ``name`` is the flag or variable that the URL came from. A server that is silent for ``patience`` seconds (default: the
    driver's own timeouts; plug-ins and files have theirs) counts as down. Raises :class:`ConfigurationError`, naming
    ``name``, for a URL that can't be read, for one that can't hold revocations, and when the driver is not installed.
    """
    if not isinstance(url, str):
        raise ConfigurationError(
            f"{name}: {url!r} ({type(url).__name__}) is no text", hint="give a URL such as redis://…"
        )
    scheme = scheme_of(url)
    if (store := _opened(scheme, url, name, tls, patience)) is not None:
        return store
    plugins = _plugins()
    if (plugin := plugins.get(scheme or "")) is not None:
        return _open_plugin(plugin, url, name, tls)
    known = ", ".join(f"{known}://" for known in sorted({*BUILT_IN, *plugins}))
    raise ConfigurationError(
        f"{name}: {mask_url(url)!r} can't hold revocations ({scheme}:// is no revoke store)",
        hint=f"set STEM_REVOKE_STORE_URL (or --revoke-store, in Python revoke_store=) to one of {known} or the path of a file",
    )


def _opened(
    scheme: str | None, url: str, name: str, tls: TlsSettings | None, patience: float | None
) -> RevokeStore | None:
    # Each driver is imported only when it is asked for.
    if name == NO_STORE:
        from stem_kombu.stores.volatile import VolatileRevokeStore

        return VolatileRevokeStore()
    if scheme in REDIS_SCHEMES:
        from stem_kombu.stores.redis import RedisRevokeStore

        return RedisRevokeStore(url, name=name, tls=tls, patience=patience)
    if scheme in POSTGRES_SCHEMES:
        from stem_kombu.stores.postgres import PostgresRevokeStore

        return PostgresRevokeStore(url, name=name, tls=tls, patience=patience)
    if scheme in SQLITE_SCHEMES:
        from stem_kombu.stores.sqlite import SqliteRevokeStore

        return SqliteRevokeStore(sqlite_path(url, name=name), create_folder=name == EMBEDDED)
    if scheme in {"file", None}:
        from stem_kombu.stores.file import FileRevokeStore

        return FileRevokeStore(file_path(url, name=name))
    if scheme == "memory":
        from stem_kombu.stores.memory import MemoryRevokeStore

        return MemoryRevokeStore(url.partition("://")[2].strip("/"))
    return None


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
