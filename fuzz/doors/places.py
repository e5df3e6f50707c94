"""What an operator writes: URLs, environment variables, spans of time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from fuzz.oracle import Finding, Refused, asked, holds
from stem_kombu.backends.registry import open_backend, open_roster
from stem_kombu.durations import LONGEST, format_duration, parse_duration
from stem_kombu.errors import ConfigurationError
from stem_kombu.redaction import mask_url
from stem_kombu.settings import Settings
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.names import namespace_part
from stem_kombu.urls import file_path, sqlite_path

SECRET = "hunter2-0e1f"
#: Schemes whose transports need no driver that might do more than be imported.
_SCHEMES = ("redis", "rediss", "amqp", "amqps", "postgres", "postgresql", "sqlite", "file", "memory", "sentinel",
            "redis+sentinel", "redis+socket", "unix", "pyamqp", "http", "")  # fmt: skip


def url(data: bytes) -> None:
    """``scheme\\nrest``, ``scheme:rest`` with a password in it, or any text."""
    text = data.decode("utf-8", "surrogateescape") if len(data) % 2 else data.decode("utf-8", "replace")
    head, line, rest = text.partition("\n")
    given = f"{head}://user:{SECRET}@{rest}" if line else text
    secret = SECRET if line and "@" not in rest else None
    if not line and given.partition("://")[0].split("+")[0] not in _SCHEMES:
        given = given.replace("://", ":/")  # some of Kombu's thirty transports do a good deal when they are imported
    elif line and head.split("+")[0] not in _SCHEMES:
        raise Refused
    _quiet(mask_url(given), secret)
    opened = False
    for path in (sqlite_path, file_path):
        opened |= _told(lambda path=path: _usable(path(given, name="--broker")), secret)  # type: ignore[misc]
    for door in (open_revoke_store, open_backend, open_roster, open_connection):
        opened |= _told(lambda door=door: door(given, name="--broker"), secret)  # type: ignore[operator,misc]
    if not opened:
        raise Refused


def _told(call: Callable[[], object], secret: str | None) -> bool:
    try:
        asked(ConfigurationError, call)
    except Refused as refused:
        _quiet(f"{refused.__cause__} {getattr(refused.__cause__, 'hint', '')}", secret)
        return False
    return True


def _quiet(text: str, secret: str | None) -> None:
    holds(secret is None or secret not in text, "a password is shown", text)


def _usable(path: Path) -> None:
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise Finding(f"a path that no file system takes: {path!r}") from error
    holds(path.is_absolute() and "\0" not in str(path), "a path that no file system takes", path)


def url_seeds() -> Iterator[bytes]:
    for one in (
        "redis://localhost:6379/0", "redis://:pw@h:1/2?ssl_cert_reqs=none", "rediss://h:6379/0?ssl_ca_certs=/ca.pem",
        "amqp://guest:guest@localhost:5672//", "amqps://h/%2Fvhost;amqp://other//", "postgres://u@h:5432/db?sslmode=require",
        "postgresql:///db?host=/tmp", "sqlite:////var/lib/stem/broker.db", "sqlite:///a%20b.db", "file:///tmp/revokes.json",
        "./revokes.json", "~/revokes.json", "~nobody/x", "memory://fleet", "redis+socket:///tmp/r.sock?virtual_host=1",
        "redis+sentinel://u:p@h1:26379,h2/master/0?sentinel_password=x", "redis\n[::1]:6379/0", "amqp\nh:5672/v",
        "postgres\nh/db?password=x", "redis+sentinel\nh1,h2:1/m/0", "rediss\nh/1",
    ):  # fmt: skip
        yield one.encode()


def environment(data: bytes) -> None:
    variables = asked((ValueError, RecursionError), json.loads, data)
    if not isinstance(variables, dict):
        raise Refused
    # What a process's environment can hold: text without NUL.
    env = {str(name): value.replace("\0", "") for name, value in variables.items() if isinstance(value, str)}
    env.setdefault("HOME", "/nonexistent")
    settings = asked(ConfigurationError, Settings.from_env, env)
    for seconds in (settings.control_timeout, settings.heartbeat_interval, settings.sync_interval):
        holds(math.isfinite(seconds) and 0 < seconds <= LONGEST, "a span that is none", seconds)
    for number, least in (
        (settings.inline_slots, 1), (settings.prefetch_multiplier, 1), (settings.default_max_retries, 0),
    ):  # fmt: skip
        holds(number >= least, "a number out of range", settings)
    holds(all(queue.strip() for queue in settings.worker_queues), "a queue without a name", settings)
    namespace_part(settings.namespace)
    holds(settings.roster.value and settings.broker.value, "a place without a URL", settings)
    signing = settings.signing
    if SECRET not in f"{signing.algorithm} {signing.active_key}":
        holds(SECRET not in repr(signing), "keys are shown", settings)


def environment_seeds() -> Iterator[bytes]:
    yield b"{}"
    yield json.dumps({
        "STEM_BROKER_URL": "redis://localhost:6379/0", "STEM_RESULT_BACKEND_URL": "postgres://h/db",
        "STEM_REVOKE_STORE_URL": "file:///tmp/x", "STEM_CONTROL_NAMESPACE": "shop", "STEM_CONTROL_TIMEOUT": "5s",
        "STEM_HEARTBEAT_INTERVAL": "250ms", "STEM_SYNC_INTERVAL": "1.5m", "STEM_WORKER_QUEUES": "a,b, c",
        "STEM_INLINE_SLOTS": "8", "STEM_PREFETCH_MULTIPLIER": "4", "STEM_DEFAULT_MAX_RETRIES": "0", "STEM_CELERY_EVENTS": "off",
        "STEM_CELERY_RESULT_URL": "redis://h/1", "STEM_TLS_ALLOW_INSECURE": "true", "STEM_TLS_CA_CERT": "/ca.pem",
    }).encode()  # fmt: skip
    yield json.dumps({
        "STEM_WORKER_NAMESPACE": "a-b.c", "STEM_DEFAULT_QUEUE": "jobs", "STEM_APP": "shop:app", "STEM_SIGNING_ALGORITHM":
        "hmac-sha256", "STEM_SIGNING_KEYS": f"k1:{SECRET}", "STEM_SIGNING_ACTIVE_KEY": "k1", "XDG_STATE_HOME": "/tmp/state",
    }).encode()  # fmt: skip


def duration(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    seconds = asked(ConfigurationError, parse_duration, text, name="--timeout", allow_zero=bool(len(data) % 2))
    holds(math.isfinite(seconds) and 0 <= seconds <= LONGEST, "a span that is none", text, seconds)
    shown = format_duration(seconds)
    holds(shown and len(shown) < 40, "a span that can't be shown", seconds, shown)
    plain = f"{seconds:.9f}"
    holds(float(plain) == 0 or math.isclose(parse_duration(plain), seconds, rel_tol=1e-3, abs_tol=1e-8), "a span", text)


def duration_seeds() -> Iterator[bytes]:
    for one in ("250ms", "5s", "1.5m", "2h", "7d", "30", ".5", "0", " 1s ", "1e3", "5 s", "-1", "36500d"):
        yield one.encode()
