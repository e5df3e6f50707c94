"""The database of a Django project, as a place for its fleet's revocations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from stem_kombu.variables import Source

#: Options of Django's PostgreSQL databases that a URL can say as well.
_OPTIONS = frozenset(
    {"sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "connect_timeout", "target_session_attrs", "options"}
)
#: Options that change nothing of what is stored where.
_HARMLESS = frozenset({"isolation_level", "pool", "server_side_binding", "assume_role", "timeout", "init_command"})


def django_store() -> Source | None:
    """The default database of the Django project that this process has set up, as the URL of a revoke store.

    ``None`` where there is no Django, and for a database that is neither PostgreSQL nor a SQLite file, or whose options a URL
    can't say.
    """
    if "django.conf" not in sys.modules:  # which Kombu alone does not import
        return None
    from django.conf import settings

    if not settings.configured:
        return None
    url = _url_of(dict(settings.DATABASES.get("default") or {}))
    return None if url is None else Source(url, "the default database of the Django project")


def _url_of(database: dict[str, Any]) -> str | None:
    engine, name = str(database.get("ENGINE") or ""), str(database.get("NAME") or "")
    if engine.rpartition(".")[2] == "sqlite3":
        return (
            None if not name or name == ":memory:" or name.startswith("file:") else f"sqlite:///{Path(name).absolute()}"
        )
    if engine.rpartition(".")[2] not in {"postgresql", "postgis", "postgresql_psycopg2"} or not name:
        return None
    options = {str(key): value for key, value in (database.get("OPTIONS") or {}).items() if key not in _HARMLESS}
    if not options.keys() <= _OPTIONS or not all(isinstance(value, (str, int)) for value in options.values()):
        return None
    user, password, host = (str(database.get(key) or "") for key in ("USER", "PASSWORD", "HOST"))
    if host.startswith("/"):  # a folder with a Unix socket
        options, host = {**options, "host": host}, ""
    at = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    port = f":{database['PORT']}" if database.get("PORT") and host else ""
    if not host and database.get("PORT"):
        options["port"] = str(database["PORT"])
    query = f"?{urlencode(options)}" if options else ""
    return f"postgresql://{at}{'@' if at else ''}{host}{port}/{quote(name, safe='')}{query}"
