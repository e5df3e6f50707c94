"""The contract of transports over the simulated broker: run by :mod:`tests.simulation.contract`, in simulated threads."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("stem_kombu.testing.transport_contract")

from stem_kombu.testing.transport_contract import TransportContract  # noqa: E402 - readable failures
from tests.simulation.contract import SEEDS  # noqa: E402


class Simulated(TransportContract):
    """One world for each seed."""

    #: Whether the broker works as Redis does, else as RabbitMQ.
    leases = False

    @pytest.fixture(params=range(SEEDS), autouse=True)
    def seed(self, request: pytest.FixtureRequest) -> int:
        return int(request.param)

    @pytest.fixture
    def url(self) -> str:
        return "simulated://"


class TestWithLeases(Simulated):
    leases = True


class TestWithConnections(Simulated):
    leases = False
