"""From a URL to its backend and its roster, and what a person is told whose URL can be neither."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from stem_kombu.backends.base import Backend
from stem_kombu.backends.memory import MemoryBackend
from stem_kombu.backends.postgres import PostgresBackend
from stem_kombu.backends.redis import RedisBackend
from stem_kombu.backends.registry import open_backend, open_roster
from stem_kombu.backends.sqlite import SqliteBackend
from stem_kombu.errors import ConfigurationError, StoreUnavailable
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.settings import EMBEDDED
from stem_kombu.testing.roster_contract import heartbeat

RECORD = TaskRecord("t", "tasks.render", TaskState.SUCCEEDED)


@pytest.mark.parametrize(
    ("url", "kind", "shown"),
    [
        ("redis://:secret@127.0.0.1:1/3", RedisBackend, "redis://:***@127.0.0.1:1/3"),
        ("rediss://u:secret@127.0.0.1:1/3?ssl_cert_reqs=CERT_NONE", RedisBackend, None),
        ("redis+socket:///run/redis.sock?virtual_host=2", RedisBackend, None),
        ("unix:///run/redis.sock?db=2", RedisBackend, None),
        ("redis+sentinel://:secret@a:26379,b:26379/main/2", RedisBackend, None),
        ("sentinel://a/main", RedisBackend, None),
        ("postgres://u:secret@127.0.0.1:1/d", PostgresBackend, "postgres://u:***@127.0.0.1:1/d"),
        ("postgresql://127.0.0.1:1/d?sslmode=disable", PostgresBackend, None),
        ("sqlite:///nowhere/at/all.db", SqliteBackend, "sqlite:///nowhere/at/all.db"),
        ("memory://", MemoryBackend, "memory://"),
        ("memory://tests", MemoryBackend, "memory://tests"),
    ],
)
def test_each_scheme_has_its_backend_and_opening_one_touches_nothing(
    url: str, kind: type[Backend], shown: str | None
) -> None:
    backend, roster = open_backend(url), open_roster(url)

    assert type(backend) is kind
    assert type(roster) is kind
    assert "secret" not in backend.url
    assert shown in (None, backend.url)
    backend.close()
    roster.close()


@pytest.mark.parametrize("url", ["file:///{}/revokes%20of.stem", "{}/revokes of.stem"])
def test_the_roster_beside_a_file_of_revocations_is_a_file_of_its_own(tmp_path: Path, url: str) -> None:
    roster = open_roster(url.format(tmp_path))

    roster.beat(heartbeat("w"))
    roster.close()

    assert (tmp_path / "revokes of.stem.roster").is_file()
    assert not (tmp_path / "revokes of.stem").exists()


@pytest.mark.parametrize("url", ["amqp://guest:secret@127.0.0.1//", "mysql://h/d", "file:///x", "/some/path", "word"])
def test_what_cannot_hold_task_states_is_refused_with_the_variable_and_the_schemes(url: str) -> None:
    with pytest.raises(ConfigurationError, match="STEM_RESULT_BACKEND_URL") as raised:
        open_backend(url, name="STEM_RESULT_BACKEND_URL")

    assert "secret" not in raised.value.message
    assert all(
        scheme in (raised.value.hint or "") for scheme in ("redis://", "postgresql://", "sqlite://", "memory://")
    )


@pytest.mark.parametrize(
    "url", ["amqp://guest:secret@127.0.0.1//", "word", "file://elsewhere/x", "sqlite://relative.db"]
)
def test_what_cannot_hold_a_roster_is_refused_with_the_variable(url: str) -> None:
    with pytest.raises(ConfigurationError, match="STEM_BROKER_URL") as raised:
        open_roster(url, name="STEM_BROKER_URL")

    assert "secret" not in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, 1e12])
def test_a_life_of_results_that_means_nothing_is_refused(ttl: float) -> None:
    for url in ("memory://", "redis://127.0.0.1:1", "postgres://127.0.0.1:1/d", "sqlite:///nowhere/at/all.db"):
        with pytest.raises(ConfigurationError, match="result_ttl"):
            open_backend(url, result_ttl=ttl)


def test_only_the_embedded_default_makes_its_folder(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/not/yet/state.db"

    with pytest.raises(StoreUnavailable, match="there is no folder") as raised:
        open_backend(url).record([RECORD])
    assert "mkdir -p" in (raised.value.hint or "")

    embedded = open_backend(url, name=EMBEDDED)
    embedded.record([RECORD])
    embedded.close()
    assert (tmp_path / "not/yet/state.db").is_file()


UNREACHABLE = ["redis://:secret@127.0.0.1:1/0", "postgresql://u:secret@127.0.0.1:1/d", "sqlite:///no/such/folder/x.db"]


@pytest.mark.parametrize("url", UNREACHABLE)
def test_a_backend_that_cannot_be_reached_is_named_without_its_password(url: str) -> None:
    backend = open_backend(url)

    for act in (backend.ping, lambda: backend.record([RECORD]), lambda: backend.view("stem")):
        with pytest.raises(StoreUnavailable, match=r"^result backend") as raised:
            act()
        assert backend.url in raised.value.message
        assert "secret" not in raised.value.message
        assert raised.value.hint
    backend.close()


@pytest.mark.parametrize("url", [*UNREACHABLE, "/no/such/folder/revokes.stem"])
def test_a_roster_that_cannot_be_reached_is_called_a_roster(url: str) -> None:
    roster = open_roster(url)

    with pytest.raises(StoreUnavailable, match=r"^roster") as raised:
        roster.beat(heartbeat("w"))

    assert roster.url in raised.value.message
    assert "secret" not in raised.value.message
    roster.close()
