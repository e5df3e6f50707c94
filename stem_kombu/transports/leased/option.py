"""How long a message stays with a worker that no longer renews it: the transport option ``visibility_timeout``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stem_kombu import timeouts

if TYPE_CHECKING:
    from kombu import Connection

_OPTION = "visibility_timeout"


class EngineOptions(dict[str, object]):
    """What Kombu hands to SQLAlchemy's engine, which refuses what it does not know: the option stands beside it.

    Raises ``ValueError`` for one that is no number of seconds above 0."""

    def __init__(self, options: Mapping[str, object]) -> None:
        super().__init__(options)
        self.visibility_timeout = _seconds(self.pop(_OPTION, timeouts.BROKER_LEASE))


def lease_of(connection: Connection) -> float:
    """Seconds of a lease at the broker of that connection, which may be a template. Raises ``ValueError``."""
    options = connection.transport_options
    if isinstance(options, EngineOptions):
        return options.visibility_timeout
    return _seconds((options or {}).get(_OPTION, timeouts.BROKER_LEASE))


def check_folders(options: Mapping[str, object]) -> None:
    """Raises ``ValueError`` for options of Kombu's filesystem transport that are no folders or no lease."""
    for name in ("data_folder_in", "data_folder_out", "control_folder", "processed_folder"):
        if name in options and not (isinstance(options[name], str) and options[name]):
            raise ValueError(f"{name} {options[name]!r} is no path of a folder")
    _seconds(options.get(_OPTION, timeouts.BROKER_LEASE))


def _seconds(given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < 1e9:
        raise ValueError(f"{_OPTION} {given!r} is no number of seconds above 0")
    return float(given)
