"""Leases of a place: keeping messages a worker's over a connection of its own, from any thread (G19)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stem_kombu.transports.connections import connect, release
from stem_kombu.transports.errors import described, shown_url
from stem_kombu.transports.leased.option import lease_of
from stem_kombu.transports.leased.place import BATCH, LeasedPlace

if TYPE_CHECKING:
    from kombu import Connection


class PlaceLeases:
    """Implements :class:`~stem_kombu.transports.base.Leases`. ``place_of`` makes a place of a connected connection;
    ``errors`` are what it raises when the broker is away."""

    def __init__(
        self, template: Connection, place_of: Callable[[Any], LeasedPlace], errors: tuple[type[BaseException], ...]
    ) -> None:
        self.url = shown_url(template)
        self._template, self._place_of, self._errors = template, place_of, errors
        self._lifetime = lease_of(template)
        self._lock = threading.Lock()
        self._open: tuple[Any, LeasedPlace] | None = None

    @property
    def lifetime(self) -> float:
        return self._lifetime

    def renew(self, handles: Sequence[Any], seconds: float | None = None) -> list[bool]:
        span = self._lifetime if seconds is None else max(seconds, self._lifetime)
        tags = [handle.delivery_tag for handle in handles]
        kept: list[bool] = []
        with self._lock:
            try:
                for start in range(0, len(tags), BATCH):
                    kept += self._place().renew(tags[start : start + BATCH], span)
            except self._errors as error:
                self._drop()
                raise described(error, self._template, "renewing leases") from error
        return kept

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _place(self) -> LeasedPlace:
        if self._open is None:
            connection = self._template.clone()
            connect(connection)
            self._open = connection, self._place_of(connection)
        return self._open[1]

    def _drop(self) -> None:
        found, self._open = self._open, None
        if found is not None:
            connection, place = found
            with suppress(*self._errors):  # it may be broken in any way
                place.close()
                release(connection)
