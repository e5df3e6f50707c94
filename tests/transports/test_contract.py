"""The contract of transports, over each implementation, and over Kombu's public names on each broker."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import kombu
import pytest
from packaging.version import Version

from stem_kombu.testing.transport_contract import TransportContract

#: Of leases: short enough to wait for their end.
SHORT: dict[str, Any] = {"visibility_timeout": 4.0, "unacked_restore_interval": 0.2}
SHORT_LEASE: dict[str, Any] = {"visibility_timeout": 4.0}


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


class TestSqlAlchemyOnSqlite(TransportContract):
    options = SHORT_LEASE

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        pytest.importorskip("sqlalchemy")
        return f"sqla+sqlite:///{tmp_path / 'kombu.db'}"


class TestSqlAlchemyOnPostgres(TransportContract):
    options = SHORT_LEASE

    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        pytest.importorskip("sqlalchemy")
        return f"sqla+{postgres_url.replace('postgresql', 'postgresql+psycopg2')}"


class TestGenericOnSqlAlchemy(TestSqlAlchemyOnSqlite):
    redelivers = returns_to_head = False
    options: dict[str, Any] = {}
    generic = True

    @pytest.fixture(autouse=True)
    def purges_by_kombu(self, request: pytest.FixtureRequest) -> None:
        if "purging" in request.node.name and Version(kombu.__version__) < Version("5.7"):
            pytest.skip("Kombu before 5.7 purges what consumers hold as well (docs/transports.md)")


class TestFilesystem(TransportContract):
    # The files of one millisecond are in no order.
    ordered = False

    @pytest.fixture(autouse=True)
    def folders(self, tmp_path: Path) -> None:
        for name in ("in", "control"):
            (tmp_path / name).mkdir()
        folder = str(tmp_path / "in")
        self.options = {
            **SHORT_LEASE,
            "data_folder_in": folder,
            "data_folder_out": folder,
            "control_folder": str(tmp_path / "control"),
        }

    @pytest.fixture
    def url(self) -> str:
        return "filesystem://"


class TestGenericOnFilesystem(TestFilesystem):
    redelivers = returns_to_head = False
    generic = True

    @pytest.mark.skip(reason="Kombu reads a file whose sender has not written it yet (docs/transports.md)")
    def test_a_message_comes_while_its_consumer_waits(self) -> None:  # type: ignore[override]
        """Stem's own source leaves such a file alone: see TestFilesystem."""
