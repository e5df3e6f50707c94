"""Each of the five stores keeps the contract that plug-in authors are given."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

pytest.register_assert_rewrite("stem_kombu.testing.store_contract")

from stem_kombu.testing.store_contract import RevokeStoreContract  # noqa: E402

_numbers = itertools.count()


class TestMemoryStore(RevokeStoreContract):
    shared_between_processes = False
    durable = False

    @pytest.fixture
    def url(self) -> str:
        return f"memory://contract-{next(_numbers)}"


class TestFileStore(RevokeStoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"file://{tmp_path}/revokes.stem"


class TestSqliteStore(RevokeStoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite://{tmp_path}/revokes.db"


class TestRedisStore(RevokeStoreContract):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url


class TestPostgresStore(RevokeStoreContract):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url
