"""The contract of transports, over each implementation, and over Kombu's public names on each broker."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.testing.transport_contract import TransportContract

#: Of leases: short enough to wait for their end.
SHORT: dict[str, Any] = {"visibility_timeout": 4.0, "unacked_restore_interval": 0.2}


class TestMemory(TransportContract):
    redelivers = returns_to_head = False

    @pytest.fixture
    def url(self) -> str:
        return f"memory://{uuid.uuid4().hex}"


class TestRedis(TransportContract):
    options = SHORT

    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url


class TestGenericOnRedis(TestRedis):
    generic = True


class TestRabbitMq(TransportContract):
    # It may send the next message before it has put back what was rejected.
    returns_to_head = False

    @pytest.fixture
    def url(self, amqp_url: str) -> str:
        return amqp_url


class TestGenericOnRabbitMq(TestRabbitMq):
    # It may send the next message before it has put back what was rejected.
    returns_to_head = False
    generic = True


class TestEmbedded(TransportContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'broker.db'}"


class TestGenericOnTheEmbeddedBroker(TestEmbedded):
    generic = True
