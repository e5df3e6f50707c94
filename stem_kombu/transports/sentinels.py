"""A broker behind Sentinel, as Kombu's transport wants to be told of it."""

from __future__ import annotations

from collections.abc import Mapping

from stem_kombu import timeouts
from stem_kombu.drivers.tls import uses_tls
from stem_kombu.sentinel import sentinel_address
from stem_kombu.settings import TlsSettings
from stem_kombu.transport_options import checked_options
from stem_kombu.transports.tls import redis_options


def by_sentinels(url: str, name: str, tls: TlsSettings, options: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """The URLs of the sentinels in Kombu's spelling, separated by ``;``, and the options that go with them.

    ``name`` is the flag or variable that the URL came from, ``options`` are all that were given. Raises
    :class:`~stem_kombu.errors.ConfigurationError`.
    """
    from redis import backoff, retry  # the package before its parts: see drivers/packages.py

    checked_options(options, name)
    address = sentinel_address(url, name=name, options=options)
    urls = address.kombu_url
    # A connection to a sentinel that is given anything gets no limits from the master's. There are other sentinels to ask,
    # and the caller tries again: the driver's own retries would only use up the caller's time.
    to_sentinels: dict[str, object] = {
        "socket_timeout": timeouts.SENTINEL_REPLY,
        "socket_connect_timeout": timeouts.SENTINEL_REPLY,
        "retry": retry.Retry(backoff.NoBackoff(), 0),
    }
    if not uses_tls(urls) and address.encrypted_by_settings and tls:
        urls = ";".join(f"{part}{'&' if '?' in part else '?'}ssl=true" for part in urls.split(";"))
    if uses_tls(urls):
        # They are told a password, and say where the master is.
        to_sentinels |= {"ssl": True, **redis_options(tls)}
    return urls, {"master_name": address.master, "sentinel_kwargs": {**to_sentinels, **address.sentinel_kwargs}}
