"""Redis behind Sentinel: one spelling for broker, backend and revoke store, and the others that are understood.

``sentinel://:password@h1:26379,h2:26379/0?master_name=mymaster`` is Stem's. ``redis+sentinel://h1,h2/mymaster/0`` and Celery's
``sentinel://h1:26379;sentinel://h2:26379`` with ``master_name`` and ``sentinel_kwargs`` among the transport options mean the
same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from stem_kombu.errors import ConfigurationError
from stem_kombu.redaction import mask_url
from stem_kombu.urls import check_server_password

HINT = "write sentinel://:password@host1:26379,host2:26379/0?master_name=mymaster"
_SCHEMES = ("sentinel", "redis+sentinel")
_PORT = 26379
#: What ends a host in a URL, and can't be part of one.
_NO_HOST = re.compile(r"[\s/?#@:;,\[\]{}\\]")


def is_sentinel(url: str) -> bool:
    """Whether the URL names sentinels."""
    return url.partition("://")[0].lower() in _SCHEMES and "://" in url


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """``hosts`` are the sentinels, ``username`` and ``password`` those of the master, ``sentinel_kwargs`` what a connection
    to a sentinel is given besides; ``query`` is the rest of the URL's query. ``encrypted_by_settings``: the older spelling,
    with the master in the path, speaks TLS when the TLS settings name files."""

    hosts: tuple[tuple[str, int], ...]
    master: str
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    encrypted_by_settings: bool = False

    @property
    def kombu_url(self) -> str:
        """The URL of Kombu's transport, which takes the master's name and what is for the sentinels as options."""
        tail = f"/{self.db}{self._query(self.query)}"
        return ";".join(f"sentinel://{self._credentials}{host}{tail}" for host in self._hosts)

    @property
    def url(self) -> str:
        """The address in Stem's spelling, or in the older one."""
        secrets = {
            f"sentinel_{key}": self.sentinel_kwargs[key]
            for key in ("username", "password")
            if key in self.sentinel_kwargs
        }
        hosts = ",".join(self._hosts)
        if self.encrypted_by_settings:
            path = f"/{quote(self.master, safe='')}/{self.db}{self._query({**self.query, **secrets})}"
            return f"redis+sentinel://{self._credentials}{hosts}{path}"
        query = self._query({**self.query, "master_name": self.master, **secrets})
        return f"sentinel://{self._credentials}{hosts}/{self.db}{query}"

    @property
    def _credentials(self) -> str:
        if self.username is None and self.password is None:
            return ""
        return f"{quote(self.username or '', safe='')}:{quote(self.password or '', safe='')}@"

    @property
    def _hosts(self) -> list[str]:
        return [f"{f'[{host}]' if ':' in host else host}:{port}" for host, port in self.hosts]

    @staticmethod
    def _query(values: Mapping[str, str]) -> str:
        return f"?{urlencode(values, quote_via=quote)}" if values else ""


def sentinel_address(url: str, *, name: str = "URL", options: Mapping[str, Any] | None = None) -> SentinelAddress:
    """What a URL of sentinels says, completed by the transport options ``master_name`` and ``sentinel_kwargs``.

    ``name`` is the flag or variable that the URL came from. Raises :class:`ConfigurationError`.
    """
    options = options or {}
    hosts: list[tuple[str, int]] = []
    credentials, path = "", ""
    query: dict[str, str] = {}
    for part in url.split(";") if "://" in url.partition(";")[2] else [url]:
        check_server_password(part, name)
        rest, _, text = part.partition("://")[2].partition("?")
        authority, _, tail = rest.partition("/")
        given, _, places = authority.rpartition("@")
        credentials, path = credentials or given, path or tail.strip("/")
        query |= dict(parse_qsl(text))
        hosts += [_place(host, url, name) for host in places.split(",")]
    in_path, _, db = path.rpartition("/")
    if path and not in_path and not db.isdigit():
        in_path, db = db, ""  # redis+sentinel://host/mymaster
    own = {key: query.pop(f"sentinel_{key}") for key in ("username", "password") if f"sentinel_{key}" in query}
    master = query.pop("master_name", None) or unquote(in_path) or options.get("master_name")
    if not isinstance(master, str) or not master:
        raise ConfigurationError(f"{name}: {mask_url(url)!r} does not name the master of its sentinels", hint=HINT)
    if db and not db.isdigit():
        raise ConfigurationError(f"{name}: {mask_url(url)!r} names a database that is no number", hint=HINT)
    user, _, password = credentials.partition(":")
    return SentinelAddress(
        hosts=tuple(hosts),
        master=master,
        db=int(db or 0),
        username=unquote(user) or None,
        password=unquote(password) or None,
        sentinel_kwargs={**(options.get("sentinel_kwargs") or {}), **own},
        query=query,
        encrypted_by_settings=bool(in_path),
    )


def _place(text: str, url: str, name: str) -> tuple[str, int]:
    bracketed, bracket, after = text.rpartition("]")
    host, colon, port = after.partition(":")
    if bracket:
        wrong = bool(host) or not bracketed.startswith("[") or not _is_address(host := unquote(bracketed[1:]))
    else:
        host = unquote(host)
        wrong = not host or ":" in port or bool(_NO_HOST.search(host))
    if wrong or (colon and not (port.isdigit() and 0 < int(port) < 65536)):
        # Which one is not shown: it may be the rest of a password.
        raise ConfigurationError(f"{name}: {mask_url(url)!r} has a sentinel in it that is no host:port", hint=HINT)
    return host, int(port or _PORT)


def _is_address(host: str) -> bool:
    """Whether that is an IPv6 address, with a zone or without."""
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True
