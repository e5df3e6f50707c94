"""Which of Kombu's drivers a broker's URL asks for, and whether it can be had."""

from __future__ import annotations

from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from stem_kombu.errors import ConfigurationError
from stem_kombu.redaction import mask_url
from stem_kombu.spelling import nearest
from stem_kombu.urls import checked_server_url

EMBEDDED_SCHEME = "sqlite"
#: What to install for schemes after which Kombu names no extra.
_INSTALLED_AS = {
    "etcd": "python-etcd",
    "kafka": "'kombu[confluentkafka]'",
    "rediss": "'kombu[redis]'",
    "sentinel": "'kombu[redis]'",
    "sqla": "'kombu[sqlalchemy]'",
}
#: Modules that Kombu's transports miss only when they connect.
_NEEDED_LATER = {"slmq": "softlayer_messaging", "pyro": "Pyro4", "qpid": "qpidtoollibs"}
ACCEPTED = "sqlite:///path, redis://, rediss://, amqp://, amqps://, memory://, or another URL of Kombu"
#: Schemes of URLs in which an @ is a letter of a path.
_LOCAL = frozenset({EMBEDDED_SCHEME, "memory", "filesystem", "redis+socket", "unix"})


def checked_driver(url: str, name: str) -> str:
    """Kombu's driver type for the URL (``amqp``, ``redis`` …); raises :class:`ConfigurationError`."""
    from kombu.transport import TRANSPORT_ALIASES, get_transport_cls

    masked = mask_url(url)
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ConfigurationError(f"{name}: {masked!r} is not a URL", hint=f"accepted: {ACCEPTED}")
    alias = scheme.split("+")[0]
    if alias == EMBEDDED_SCHEME:
        from stem_kombu.transports.sqlite.registration import register

        register()
    if alias not in TRANSPORT_ALIASES:
        near = nearest(alias, TRANSPORT_ALIASES, cutoff=0.7)
        hint = f"did you mean {near}://?" if near else f"accepted: {ACCEPTED}"
        raise ConfigurationError(f"{name}: {masked!r} has the unknown scheme {scheme!r}", hint=hint)
    try:
        parts = urlsplit(checked_server_url(url, name) if alias not in _LOCAL else url)
        if parts.port == 0:
            raise ValueError("port 0")
    except ValueError:
        # Not its text: what was taken for a port may be the rest of a password.
        raise ConfigurationError(f"{name}: {masked!r} has a bad port", hint=f"accepted: {ACCEPTED}") from None
    if scheme in {"redis", "rediss"} and parts.path.strip("/") and not parts.path.strip("/").isdigit():
        raise ConfigurationError(
            f"{name}: {masked!r} names the database {parts.path.strip('/')!r}",
            hint="write a number, as in redis://host:6379/0",
        )
    try:
        transport: Any = get_transport_cls(alias)
        if (module := _NEEDED_LATER.get(alias.lower())) is not None:
            import_module(module)
        return str(transport.driver_type)
    except Exception as error:
        # Importing a transport runs its driver's module; whatever that raises, the driver can't be used.
        raise driver_missing(url, name, error) from error


def driver_missing(url: str, name: str, error: Exception) -> ConfigurationError:
    """What to say when the driver's module can't be loaded."""
    scheme = url.partition("://")[0]
    alias = scheme.split("+")[0].lower()
    return ConfigurationError(
        f"{name}: the driver for {scheme}:// can't be loaded: {error}",
        hint="pip install " + _INSTALLED_AS.get(alias, f"'kombu[{alias}]'"),
    )
