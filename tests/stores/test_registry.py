"""From a URL to its store, and what a person is told whose URL can't be one."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from stem_kombu.errors import ConfigurationError, StoreUnavailable
from stem_kombu.revocation import RevocationDraft
from stem_kombu.settings import EMBEDDED, Settings, TlsSettings
from stem_kombu.stores import registry
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.file import FileRevokeStore
from stem_kombu.stores.memory import MemoryRevokeStore
from stem_kombu.stores.postgres import PostgresRevokeStore
from stem_kombu.stores.redis import RedisRevokeStore
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.stores.sqlite import SqliteRevokeStore


@pytest.mark.parametrize(
    ("url", "kind", "shown"),
    [
        ("redis://:secret@127.0.0.1:1/3", RedisRevokeStore, "redis://:***@127.0.0.1:1/3"),
        ("REDIS://127.0.0.1:1", RedisRevokeStore, "REDIS://127.0.0.1:1"),
        ("rediss://u:secret@127.0.0.1:1/3?ssl_cert_reqs=CERT_NONE", RedisRevokeStore, None),
        ("redis+socket:///run/redis.sock?virtual_host=2", RedisRevokeStore, None),
        ("unix:///run/redis.sock?db=2", RedisRevokeStore, None),
        ("redis+sentinel://:secret@a:26379,b:26379/main/2", RedisRevokeStore, None),
        ("sentinel://a/main", RedisRevokeStore, None),
        ("postgres://u:secret@127.0.0.1:1/d", PostgresRevokeStore, "postgres://u:***@127.0.0.1:1/d"),
        ("postgresql://u:secret@127.0.0.1:1/d?sslmode=disable", PostgresRevokeStore, None),
        ("sqlite:///nowhere/at/all.db", SqliteRevokeStore, "sqlite:///nowhere/at/all.db"),
        ("sqlite:////nowhere/at/all.db", SqliteRevokeStore, "sqlite:///nowhere/at/all.db"),
        ("file:///nowhere/revokes.stem", FileRevokeStore, "file:///nowhere/revokes.stem"),
        ("file:///with%20space/revokes.stem", FileRevokeStore, "file:///with space/revokes.stem"),
        ("/nowhere/revokes.stem", FileRevokeStore, "file:///nowhere/revokes.stem"),
        ("memory://", MemoryRevokeStore, "memory://"),
        ("memory://tests", MemoryRevokeStore, "memory://tests"),
    ],
)
def test_each_scheme_has_its_store_and_opening_one_touches_nothing(
    url: str, kind: type[RevokeStore], shown: str | None
) -> None:
    store = open_revoke_store(url)

    assert type(store) is kind
    assert "secret" not in store.url
    assert shown in (None, store.url)
    store.close()


def test_a_relative_path_and_the_home_folder_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    assert open_revoke_store("./revokes.stem").url == f"file://{tmp_path}/revokes.stem"
    assert open_revoke_store("sub/revokes.stem").url == f"file://{tmp_path}/sub/revokes.stem"
    assert open_revoke_store("~/revokes.stem").url == f"file://{tmp_path}/home/revokes.stem"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("revokes.stem", "'revokes.stem' is neither a URL nor the path of a file", "./revokes.stem"),
        ("amqp://u:secret@host//", "'amqp://u:***@host//' can't hold revocations", "STEM_REVOKE_STORE_URL"),
        ("sqs://", "sqs:// is no revoke store", "postgresql://, redis://"),
        ("file://host/path", "names no file on this host", "file:///absolute/path"),
        ("file://", "names no file", "file:///absolute/path"),
        ("sqlite://", "names no file", "sqlite:////absolute/path.db"),
        ("redis://host:port/0", "is not a Redis URL", "redis://:password@host:6379/0"),
        ("redis+sentinel://host:26379", "does not name the master of its sentinels", "master_name"),
        ("redis+sentinel://host:x/main", "is no host:port", "master_name"),
        ("redis+sentinel://host/main/db", "names a database that is no number", "master_name"),
        ("postgresql://host/d?nonsense=1", "is not a PostgreSQL URL", "postgresql://user:password@host"),
    ],
)
def test_a_url_that_cannot_be_one_is_refused_with_its_origin_and_a_way_out(url: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_revoke_store(url, name="STEM_BROKER_URL")

    assert refused.value.message.startswith("STEM_BROKER_URL: ")
    assert message in refused.value.message
    assert hint in (refused.value.hint or "")
    assert "secret" not in refused.value.message


def test_memory_stores_of_one_name_share_what_they_hold() -> None:
    open_revoke_store("memory://shared").save("ns", [RevocationDraft("t")])

    assert open_revoke_store("memory://shared").get("ns", "t") is not None
    assert open_revoke_store("memory://other").get("ns", "t") is None


def test_a_missing_driver_is_named_with_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)

    with pytest.raises(ConfigurationError, match="needs the package psycopg2") as missing:
        open_revoke_store("postgresql://host/d", name="--revoke-store")

    assert "pip install" in (missing.value.hint or "")


def test_the_embedded_default_makes_its_folder_and_nothing_else_does(state_folder: Path, tmp_path: Path) -> None:
    settings = Settings.from_env({"XDG_STATE_HOME": str(state_folder.parent)})

    store = open_revoke_store(settings.revoke_store.value, name=settings.revoke_store.name)
    store.save("stem", [RevocationDraft("t")])

    assert settings.revoke_store.name == EMBEDDED
    assert state_folder.is_dir()
    store.close()
    with pytest.raises(StoreUnavailable, match="there is no folder"):
        open_revoke_store(f"sqlite://{tmp_path}/missing/revokes.db").save("stem", [RevocationDraft("t")])


def plugin(url: str, tls: TlsSettings | None) -> RevokeStore:
    return MemoryRevokeStore(f"plugin-{url}")


def not_a_store(url: str, tls: TlsSettings | None) -> str:
    return url


def _registered(monkeypatch: pytest.MonkeyPatch, **schemes: str) -> None:
    points = [EntryPoint(scheme, value, registry.ENTRY_POINT_GROUP) for scheme, value in schemes.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.ENTRY_POINT_GROUP else [])


def test_a_plug_in_adds_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    _registered(monkeypatch, mine=f"{__name__}:plugin")

    assert open_revoke_store("mine://here").url == "memory://plugin-mine://here"
    with pytest.raises(ConfigurationError) as refused:
        open_revoke_store("amqp://")
    assert "mine://" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no.such.module:store", "can't be imported"),
        (f"{__name__}:no_such_name", "can't be imported"),
        (f"{__name__}:not_a_store", "gave str, which is no RevokeStore"),
    ],
)
def test_a_broken_plug_in_is_named(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    _registered(monkeypatch, mine=value)

    with pytest.raises(ConfigurationError, match=message) as broken:
        open_revoke_store("mine://:secret@here", name="--revoke-store")

    assert broken.value.message.startswith("--revoke-store: 'mine://:***@here'")


def test_no_driver_is_imported_before_a_url_asks_for_it() -> None:
    program = (
        "import sys; from stem_kombu.stores.registry import open_revoke_store; "
        "open_revoke_store('sqlite:///nowhere/x.db'); open_revoke_store('/nowhere/x.stem'); "
        "print([name for name in ('redis', 'psycopg2') if name in sys.modules])"
    )

    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert told == "[]\n"
