"""What ``transport_options`` may say to the embedded broker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stem_kombu.errors import ConfigurationError

_SYNCHRONOUS = ("NORMAL", "FULL", "EXTRA")


@dataclass(frozen=True, slots=True)
class Options:
    """Decoded transport options; times in seconds.

    ``visibility_timeout``: how long a live but silent owner (stopped, swapped out) keeps what it holds. Renewed at a
    third of it; a dead owner is noticed by its lock instead, within a second.
    ``polling_interval``: the longest a message from another process waits unseen by a consumer that had work in the
    last second; twice that for an idle one. Within one process nothing is polled.
    ``busy_timeout``: patience with a file that others keep locked.
    ``synchronous``: SQLite's. ``NORMAL`` survives every kill of every process and keeps the file sound after a power
    cut, which may however undo the last commits (up to the last checkpoint); ``FULL`` fsyncs each commit and loses
    none.
    ``fetch_limit``: most messages leased in one transaction for a consumer without a prefetch limit.
    """

    visibility_timeout: float = 30.0
    polling_interval: float = 0.01
    busy_timeout: float = 10.0
    synchronous: str = "NORMAL"
    fetch_limit: int = 64

    @classmethod
    def decode(cls, options: Mapping[str, object]) -> Options:
        """Options from Kombu's mapping; keys of other transports are none of our business.

        Raises :class:`ConfigurationError` naming the option and its value.
        """
        default = cls()  # slots hide the defaults from the class itself
        synchronous = str(options.get("synchronous", default.synchronous)).upper()
        if synchronous not in _SYNCHRONOUS:
            raise ConfigurationError(
                f"transport option synchronous: {synchronous!r} means nothing to SQLite",
                hint="write one of " + ", ".join(_SYNCHRONOUS),
            )
        return cls(
            visibility_timeout=_seconds(options, "visibility_timeout", default.visibility_timeout),
            polling_interval=_seconds(options, "polling_interval", default.polling_interval),
            busy_timeout=_seconds(options, "busy_timeout", default.busy_timeout),
            synchronous=synchronous,
            fetch_limit=max(1, int(_seconds(options, "fetch_limit", default.fetch_limit))),
        )


def _seconds(options: Mapping[str, Any], name: str, default: float) -> float:
    given = options.get(name)
    if given is None:
        return default
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 < value < float("inf"):
        raise ConfigurationError(f"transport option {name}: {given!r} is not a positive number")
    return value
