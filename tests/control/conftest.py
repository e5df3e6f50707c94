"""Fleets for the tests of the control room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.control.fleet import Fleet
from tests.control.wire import Wire


@pytest.fixture
def fleet_on() -> Iterator[Callable[..., Fleet]]:
    """``fleet_on(url, **options)``: a fleet that is down when the test is over."""
    fleets: list[Fleet] = []

    def made(url: str, **options: Any) -> Fleet:
        fleets.append(Fleet(url, **options))
        return fleets[-1]

    yield made
    for fleet in fleets:
        fleet.close()


@pytest.fixture
def fleet(broker_url: str, fleet_on: Callable[..., Fleet]) -> Fleet:
    """An empty fleet on each broker in turn."""
    return fleet_on(broker_url)


@pytest.fixture
def wire(fleet: Fleet) -> Iterator[Wire]:
    """Somebody at the broker of ``fleet``."""
    with Wire(fleet.url, fleet.namespace) as wire:
        yield wire


@pytest.fixture
def redis_fleet(redis_url: str, fleet_on: Callable[..., Fleet]) -> Fleet:
    return fleet_on(redis_url)
