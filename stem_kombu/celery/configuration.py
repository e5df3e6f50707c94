"""Stem's settings for a Celery application: Stem's variables first, then what Celery is configured with."""

from __future__ import annotations

from typing import Any

from stem_kombu.settings import Settings, Source

#: Schemes of result backends that Stem can keep a roster and revocations in.
_USABLE = frozenset({"redis", "rediss", "sentinel", "postgres", "postgresql", "sqlite"})


def settings_of(app: Any, **given: Any) -> Settings:
    """The settings of ``app``. Keywords are those of :meth:`Settings.from_env` and beat variables and configuration.

    Without ``STEM_BROKER_URL`` the broker is the application's, and without ``STEM_RESULT_BACKEND_URL`` so is the backend
    where Stem can use it (Redis, PostgreSQL, SQLite). Raises :class:`ConfigurationError`.
    """
    return Settings.from_env(**fallbacks_of(app), **given)


def fallbacks_of(app: Any) -> dict[str, Any]:
    """What the application's configuration says of broker and backend, as keywords of :meth:`Settings.from_env`."""
    conf = app.conf
    broker = conf.broker_read_url or conf.broker_url
    if isinstance(broker, (list, tuple)):
        broker = broker[0]
    broker = str(broker).partition(";")[0] if broker else app.connection_for_read().as_uri(include_password=True)
    backend = _usable(conf.result_backend)
    return {
        "fallback_broker": Source(broker, "broker_url of the Celery application"),
        "fallback_backend": None if backend is None else Source(backend, "result_backend of the Celery application"),
    }


def _usable(url: str | None) -> str | None:
    """Celery's result backend as a URL that Stem can use, ``None`` when it can't."""
    # SQLAlchemy's spelling is db+postgresql+psycopg2://…
    scheme, separator, rest = str(url or "").removeprefix("db+").partition("://")
    scheme = scheme.partition("+")[0]
    return f"{scheme}://{rest}" if separator and scheme in _USABLE else None
