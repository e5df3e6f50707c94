"""Each of the four backends keeps the contracts that plug-in authors are given, and so does a roster beside a file."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

pytest.register_assert_rewrite(
    *(f"stem_kombu.testing.{suite}_contract" for suite in ("backend", "roster", "failed_messages"))
)

from stem_kombu.testing.backend_contract import TaskStatesContract  # noqa: E402
from stem_kombu.testing.failed_messages_contract import FailedMessagesContract  # noqa: E402
from stem_kombu.testing.roster_contract import RosterContract  # noqa: E402

_numbers = itertools.count()


class _InMemory:
    shared_between_processes = False

    @pytest.fixture
    def url(self) -> str:
        return f"memory://contract-{next(_numbers)}"


class _InSqlite:
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite://{tmp_path}/state.db"


class _InRedis:
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url


class _InPostgres:
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


class TestMemoryStates(_InMemory, TaskStatesContract):
    pass


class TestMemoryRoster(_InMemory, RosterContract):
    pass


class TestSqliteStates(_InSqlite, TaskStatesContract):
    pass


class TestSqliteRoster(_InSqlite, RosterContract):
    pass


class TestRosterBesideAFile(RosterContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"{tmp_path}/revokes.stem"


class TestRedisStates(_InRedis, TaskStatesContract):
    pass


class TestRedisRoster(_InRedis, RosterContract):
    pass


class TestPostgresStates(_InPostgres, TaskStatesContract):
    pass


class TestPostgresRoster(_InPostgres, RosterContract):
    pass


class TestMemoryFailedMessages(_InMemory, FailedMessagesContract):
    pass


class TestSqliteFailedMessages(_InSqlite, FailedMessagesContract):
    pass


class TestRedisFailedMessages(_InRedis, FailedMessagesContract):
    pass


class TestPostgresFailedMessages(_InPostgres, FailedMessagesContract):
    pass
