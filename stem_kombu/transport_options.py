"""Transport options of Kombu as operators write them: ``KEY=JSON``, a JSON object, or the query of a broker's URL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from stem_kombu.errors import ConfigurationError
from stem_kombu.redaction import MASK, is_misread, is_secret_name, mask_url
from stem_kombu.sentinel import is_sentinel, sentinel_address
from stem_kombu.urls import SQLITE_SCHEMES

PREFIX = "global_keyprefix"
#: Of RabbitMQ: whether sending a task waits until the broker confirms that it has it.
CONFIRM_PUBLISH = "confirm_publish"
#: Beginnings of the URLs of Redis.
REDIS_URLS = ("redis://", "rediss://", "redis+socket://", "unix://", "sentinel://", "redis+sentinel://")

#: What Kombu's Connection, or its drivers, read from a URL themselves.
_OF_THE_CONNECTION = frozenset(
    {"ssl", "virtual_host", "transport", "connect_timeout", "login_method", "heartbeat", "userid", "password", "port"}
    | {"hostname", "insist", "credential_provider", "failover_strategy"}
)
#: Schemes whose transports, or their drivers, read the whole URL.
_READ_WHOLE = ("sqla", "mongodb", "azure", "gcpubsub")
#: Options of the embedded broker.
_EMBEDDED = frozenset({"visibility_timeout", "polling_interval", "busy_timeout", "synchronous", "fetch_limit"})
_TEXT, _SECONDS, _WHOLE, _SWITCH = "a text", "a number of seconds", "a whole number", "true or false"
_OBJECT, _FANOUT, _STEPS = "an object", "true, false or a text", "a rising list of whole numbers from 0 to 255"
#: What the options of the Redis and Sentinel transports are.
_KINDS = {
    **dict.fromkeys((PREFIX, "sep", "unacked_key", "unacked_index_key", "unacked_mutex_key"), _TEXT),
    **dict.fromkeys(("queue_order_strategy", "client_name", "master_name"), _TEXT),
    **dict.fromkeys(("visibility_timeout", "unacked_mutex_expire", "unacked_restore_interval"), _SECONDS),
    **dict.fromkeys(("socket_timeout", "socket_connect_timeout", "health_check_interval"), _SECONDS),
    **dict.fromkeys(("max_connections", "min_other_sentinels"), _WHOLE),
    **dict.fromkeys(("unacked_restore_limit", "unacked_restore_throttle"), _WHOLE),
    **dict.fromkeys(("ack_emulation", "socket_keepalive", "retry_on_timeout", CONFIRM_PUBLISH), _SWITCH),
    **dict.fromkeys(("fanout_patterns", "sentinel_fanout_compat"), _SWITCH),
    **dict.fromkeys(("socket_keepalive_options", "sentinel_kwargs"), _OBJECT),
    "fanout_prefix": _FANOUT,
    "priority_steps": _STEPS,
}
#: What a query may give, by scheme; with any other scheme it may give anything. Kombu hands the whole query of a socket file to
#: redis-py.
_KNOWN_OF = {**dict.fromkeys(("redis+socket", "unix"), frozenset(_KINDS)), **dict.fromkeys(SQLITE_SCHEMES, _EMBEDDED)}


def given_options(texts: Iterable[str], name: str) -> dict[str, object]:
    """The options of several ``KEY=JSON``; what is no JSON is a text. Raises :class:`ConfigurationError`."""
    found: dict[str, object] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not _is_key(key.strip()):
            raise ConfigurationError(f"{name}: {mask_url(key)!r} is not KEY=JSON", hint=f"write {name} {PREFIX}=shop:")
        found[key.strip()] = _value(key.strip(), value.strip())
    return found


def parsed_options(text: str, name: str) -> dict[str, object]:
    """The options of a JSON object. Raises :class:`ConfigurationError`."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = getattr(error, "msg", "nested too deeply")  # not its text, which may be a password
        raise ConfigurationError(
            f"{name} is not JSON ({why})", hint=f'write {name}=\'{{"{PREFIX}": "shop:"}}\''
        ) from None
    if not isinstance(found, dict) or not all(_is_key(key) for key in found):
        raise ConfigurationError(f"{name} is no JSON object of options", hint=f'write {{"{PREFIX}": "shop:"}}')
    return {key: _numbered(key, value) for key, value in found.items()}


def split_url(url: str) -> tuple[str, dict[str, object]]:
    """The URL (or several, separated by ``;``) without the transport options in its query, and these."""
    found: dict[str, object] = {}
    parts = []
    for part in url.split(";") if "://" in url.partition(";")[2] else [url]:
        is_url = "://" in part.partition("?")[0]  # a path may have a ? in it
        rest, query = _split(part, found) if is_url else (part, "")
        parts.append(f"{rest}?{query}" if query else rest)
    return ";".join(parts), found


def store_url(url: str, name: str, options: Mapping[str, object]) -> str:
    """The URL of a backend or store. One at Redis gets the key prefix of the broker's ``options``, and the master and the
    passwords of its sentinels, unless it says otherwise itself.

    ``name`` is the flag or variable that the URL came from. Raises :class:`ConfigurationError`.
    """
    if not url.lower().startswith(REDIS_URLS):
        return url
    if is_sentinel(url) and ("://" in url.partition(";")[2] or {"master_name", "sentinel_kwargs"} & set(options)):
        url = sentinel_address(url, name=name, options=options).url
    prefix = options.get(PREFIX)
    if not isinstance(prefix, str) or not prefix or PREFIX in split_url(url)[1]:
        return url
    return f"{url}{'&' if '?' in url else '?'}{PREFIX}={quote(prefix, safe='')}"


def without_option(url: str, key: str) -> tuple[str, str | None]:
    """The URL without that option in its query, and the option's value."""
    rest, mark, query = url.partition("?")
    if not mark or not _can_be_taken_apart(url):
        return url, None
    fields = parse_qsl(query, keep_blank_values=True)
    kept = urlencode([(each, value) for each, value in fields if each != key], quote_via=quote)
    found = [value for each, value in fields if each == key]
    return (f"{rest}?{kept}" if kept else rest, found[-1]) if found else (url, None)


def checked_options(options: Mapping[str, object], name: str) -> None:
    """Raises :class:`ConfigurationError` for an option of the Redis transport with a value that means nothing to it."""
    for key, value in options.items():
        kind = _KINDS.get(key)
        if kind is not None and value is not None and not _is_kind(kind, value):
            shown = MASK if is_secret_name(key) else repr(value)[:80]
            raise ConfigurationError(
                f"{name}: transport option {key}: {shown} is not {kind}", hint=f"give {key} {kind}"
            )


def own_options(options: Mapping[str, object]) -> dict[str, object]:
    """Those of the options whose meaning is Stem's, on whatever broker."""
    return {key: options[key] for key in (CONFIRM_PUBLISH,) if key in options}


def _is_kind(kind: str, value: object) -> bool:
    if kind == _TEXT:
        return isinstance(value, str)
    if kind == _SWITCH:
        return isinstance(value, bool)
    if kind == _FANOUT:
        return isinstance(value, (bool, str))
    if kind == _OBJECT:
        return isinstance(value, Mapping)
    if kind == _STEPS:
        return isinstance(value, (list, tuple)) and bool(value) and _are_steps(value)
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return whole or (kind == _SECONDS and isinstance(value, float) and 0 <= value < float("inf"))


def _are_steps(values: Sequence[Any]) -> bool:
    if not all(isinstance(step, int) and not isinstance(step, bool) and 0 <= step <= 255 for step in values):
        return False
    return list(values) == sorted(set(values))  # Kombu looks a step up by bisection


def _split(url: str, found: dict[str, Any]) -> tuple[str, str]:
    rest, mark, query = url.partition("?")
    if not mark or rest.lower().startswith(_READ_WHOLE) or not _can_be_taken_apart(url):
        return rest, query
    kept = []
    for key, value in (fields := parse_qsl(query, keep_blank_values=True)):
        if key in _OF_THE_CONNECTION or key.startswith("ssl_") or not _may_be_given(rest, key):
            kept.append((key, value))
        elif key in {"sentinel_username", "sentinel_password"}:
            found.setdefault("sentinel_kwargs", {})[key.removeprefix("sentinel_")] = value
        else:
            found[key] = _value(key, value)
    return rest, query if len(kept) == len(fields) else urlencode(kept, quote_via=quote)


def _can_be_taken_apart(url: str) -> bool:
    """Whether what is behind the question mark is a query; what is wrong with another URL is told where it is opened. With an
    @ only after it, it may be the rest of a password."""
    rest, _, query = url.partition("?")
    return url.isprintable() and not is_misread(url) and ("@" in rest or "@" not in query)


def _may_be_given(url: str, key: str) -> bool:
    """Whether a query may give that option: any one, where nothing else reads the query."""
    known = _KNOWN_OF.get(url.partition("://")[0].lower())
    return known is None or key in known


def _value(key: str, text: str) -> object:
    kind = _KINDS.get(key)
    if kind in {_SWITCH, _FANOUT} and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if kind == _TEXT and not isinstance(value, str) else _numbered(key, value)


def _numbered(key: str, value: object) -> object:
    """The options of sockets are numbers, which JSON can't have as keys."""
    if key != "socket_keepalive_options" or not isinstance(value, dict):
        return value
    return {int(each) if each.isdecimal() else each: number for each, number in value.items()}


def _is_key(key: str) -> bool:
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", key, re.ASCII) is not None
