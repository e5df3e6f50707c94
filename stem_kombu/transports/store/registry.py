"""From the URL of a revoke store to the control board in the same database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.errors import ConfigurationError
from stem_kombu.redaction import mask_url
from stem_kombu.settings import EMBEDDED, TlsSettings
from stem_kombu.urls import POSTGRES_SCHEMES, REDIS_SCHEMES, SQLITE_SCHEMES, scheme_of, sqlite_path

if TYPE_CHECKING:
    from stem_kombu.transports.store.board import ControlBoard


def can_carry_control(url: str) -> bool:
    """Whether control messages can go through the revoke store of that URL."""
    return scheme_of(url) in (*REDIS_SCHEMES, *POSTGRES_SCHEMES, *SQLITE_SCHEMES)


def open_control_board(
    url: str,
    namespace: str,
    *,
    name: str = "URL",
    tls: TlsSettings | None = None,
    patience: float | None = None,
    clock: Clock = SYSTEM,
) -> ControlBoard:
    """The control board of a namespace in the database that a revoke store's URL names; nothing is connected yet.

    ``name`` is the flag or variable that the URL came from; a server that is silent for ``patience`` seconds counts as down.
    Raises :class:`ConfigurationError` for a URL that can't be read, and for a store that can't carry control messages.
    """
    scheme = scheme_of(url)
    if scheme in REDIS_SCHEMES:
        from stem_kombu.transports.store.redis import RedisControlBoard

        return RedisControlBoard(url, namespace, name=name, tls=tls, patience=patience, clock=clock)
    if scheme in POSTGRES_SCHEMES:
        from stem_kombu.transports.store.postgres import PostgresControlBoard

        return PostgresControlBoard(url, namespace, name=name, tls=tls, patience=patience, clock=clock)
    if scheme == "sqlite":
        from stem_kombu.transports.store.sqlite import SqliteControlBoard

        path = sqlite_path(url, name=name)
        return SqliteControlBoard(path, namespace, create_folder=name == EMBEDDED, patience=patience, clock=clock)
    raise ConfigurationError(
        f"{name}: {mask_url(url)!r} can't carry control messages",
        hint="set STEM_REVOKE_STORE_URL (or --revoke-store, in Python revoke_store=) to a redis://, postgresql:// or"
        " sqlite:// URL",
    )
