"""The stores that keep control records keep the contract that plug-in authors are given."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

pytest.register_assert_rewrite("stem_kombu.testing.record_contract")

from stem_kombu.testing.record_contract import RecordContract  # noqa: E402

_numbers = itertools.count()


class TestMemoryRecords(RecordContract):
    shared_between_processes = False

    @pytest.fixture
    def url(self) -> str:
        return f"memory://records-{next(_numbers)}"


class TestSqliteRecords(RecordContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite://{tmp_path}/revokes.db"


class TestRedisRecords(RecordContract):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url


class TestPostgresRecords(RecordContract):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


class TestFileRecords(RecordContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"file://{tmp_path}/revokes.stem"
