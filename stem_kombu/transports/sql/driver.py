"""Whether the driver of the database that a URL of SQLAlchemy names can be had: known at once, not with the first query."""

from __future__ import annotations

from typing import Any

from stem_kombu.errors import ConfigurationError
from stem_kombu.redaction import mask_url

#: What to install for a module.
_INSTALL = {
    "psycopg": "pip install psycopg, or write sqla+postgresql+psycopg2://, whose driver comes with stem-kombu",
    "MySQLdb": "pip install mysqlclient",
}


def load_database_driver(url: str, name: str) -> None:
    """Import the driver of the database behind a broker's URL ``sqla+…``; ``name`` is where the URL came from.

    Raises :class:`~stem_kombu.errors.ConfigurationError` that names the package to install."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        dialect: Any = make_url(url.partition("+")[2]).get_dialect()
        dialect.import_dbapi()
    except ImportError as error:
        raise ConfigurationError(
            f"{name}: the driver for {url.partition('://')[0]}:// can't be loaded: {error}",
            hint=_INSTALL.get(error.name or "", f"pip install {error.name}"),
        ) from error
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigurationError(
            f"{name}: {mask_url(url)!r} can't be used as a broker URL: {error}",
            hint="write sqla+postgresql+psycopg2://user@host/database, or another URL of SQLAlchemy",
        ) from error
