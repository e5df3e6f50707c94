"""A fleet where nothing that could hold revocations is configured starts all the same, and says what it can't do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError

from stem_kombu.celery import install, settings_of
from stem_kombu.celery.configuration import host_of
from stem_kombu.celery.django_database import django_store
from stem_kombu.errors import ConfigurationError
from stem_kombu.settings import Settings
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.celery.test_command import run
from tests.waiting import eventually

NOT_DURABLE = "no revoke store is configured: revocations last as long as the workers that are up"


@pytest.fixture
def forgetful(shop_on: Callable[[str], Shop], amqp_url: str, tmp_path: Path) -> Any:
    """RabbitMQ, and results that only the client can read."""
    shop = Shop(amqp_url, "rpc://", tmp_path)
    yield shop
    shop.close()


@pytest.mark.parametrize("pool", [("-c", "2"), ("-P", "solo")], ids=" ".join)
def test_the_line_never_keeps_a_worker_from_its_start(forgetful: Shop, pool: tuple[str, ...], tmp_path: Path) -> None:
    worker = forgetful.start(*pool)
    assert NOT_DURABLE in worker.log
    assert "STEM_REVOKE_STORE_URL" in worker.log
    assert forgetful.send("shop.add", 1, 2).get(timeout=30) == 3
    for report in (
        forgetful.client.ping(timeout=2),
        forgetful.client.inspect(timeout=2),
        forgetful.client.stats(timeout=2),
    ):
        assert [reply.worker for reply in report.replies] == ["alpha@shop"]
        assert report.replies[0].payload["durable"] is False
    # what runs stops at its checkpoint
    gate = Gate(tmp_path / "gate")
    running = forgetful.send("shop.render", gate.path)
    gate.wait_reached()
    report = forgetful.client.revoke([running.id], terminate=True, timeout=3)
    assert not report.durable
    assert report.replies[0].payload["terminated"] == [running.id]
    assert report.replies[0].payload["durable"] is False
    with pytest.raises(TaskRevokedError):
        running.get(timeout=30)
    # and what was revoked does not start
    forgetful.client.revoke(["early"], timeout=1)
    (answer,) = forgetful.app.control.revoke(["native"], reply=True, timeout=5, limit=1)
    assert answer["alpha@shop"] == {"ok": f"tasks {{'native'}} flagged as revoked ({NOT_DURABLE})", "durable": False}
    for task_id in ("early", "native"):
        with pytest.raises(TaskRevokedError):
            forgetful.send("shop.add", 1, task_id=task_id).get(timeout=30)
    # and the worker does not take that for a store that lost something
    assert "set back" not in worker.log


def test_a_worker_without_a_store_learns_of_revocations_from_its_neighbours(forgetful: Shop) -> None:
    forgetful.start("-c", "1", "--with-mingle")
    assert forgetful.client.revoke(["shared"], timeout=1).replies
    second = forgetful.start("-c", "1", "--with-mingle", name="bravo")
    forgetful.workers[0].terminate()
    with pytest.raises(TaskRevokedError):
        forgetful.send("shop.add", 1, task_id="shared").get(timeout=30)
    assert second.terminate() == 0


def test_the_command_says_that_nothing_is_durable_and_exits_with_3(forgetful: Shop) -> None:
    done = run(forgetful, "worker", "revoke", "-t", "one", "--timeout", "1s")
    assert done.returncode == 69
    assert "no worker holds it" in done.stderr
    forgetful.start("-c", "1")
    done = run(forgetful, "worker", "revoke", "-t", "one", "--timeout", "2s", "--json")
    assert done.returncode == 3, done.stderr
    said = json.loads(done.stdout)
    assert (said["durable"], said["replies"][0]["payload"]["durable"]) == (False, False)
    assert f"not durable: 1 revocation; {NOT_DURABLE}" in done.stderr
    assert "stored:" not in done.stderr
    done = run(forgetful, "health", "--json")
    assert done.returncode == 0, done.stderr
    (store,) = [check for check in json.loads(done.stdout)["checks"] if check["component"] == "revoke_store"]
    assert (store["level"], store["warnings"], store["durable"]) == ("warn", [NOT_DURABLE], False)
    done = run(forgetful, "worker", "status", "--timeout", "3s")
    assert "alpha@shop" in done.stdout, done.stderr


def test_a_store_may_be_required(forgetful: Shop) -> None:
    worker = forgetful.begin("-c", "1", STEM_REQUIRE_STORE="true")
    assert worker.process.wait(60) == 2
    assert "STEM_REQUIRE_STORE is on, and no revoke store is configured" in worker.log
    assert "STEM_REVOKE_STORE_URL" in worker.log


def test_a_url_that_can_not_hold_revocations_stays_an_error(forgetful: Shop) -> None:
    worker = forgetful.begin("-c", "1", STEM_REVOKE_STORE_URL="mongodb://localhost/revokes")
    assert worker.process.wait(60) == 2
    assert "can't hold revocations" in worker.log


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # Kombu's SQLAlchemy transport
def test_a_broker_that_fans_out_to_nobody_leaves_celery_alone(tmp_path: Path) -> None:
    shop = Shop(f"sqla+sqlite:///{tmp_path}/broker.db", "rpc://", tmp_path)
    try:
        worker = shop.start("-P", "solo")
        assert "stem stands aside" in worker.log
        gate = Gate(tmp_path / "gate")
        gate.open()
        shop.send("shop.deaf", gate.path, ignore_result=True)
        eventually(lambda: gate.reached() is not None, 30)
    finally:
        shop.close()


def found(conf: dict[str, Any], environ: dict[str, str] | None = None) -> Settings:
    app = Celery("shop", set_as_current=False)
    app.conf.update(conf)
    return Settings.from_env(environ or {}, host=host_of(app))


@pytest.mark.parametrize(
    "backend", ["rpc://", None, "cache+memcached://h/", "mongodb://h/d", "db+mysql://h/d", "django-db"]
)
def test_which_backends_leave_a_fleet_on_rabbitmq_without_a_store(backend: str | None) -> None:
    assert not found({"broker_url": "amqp://h", "result_backend": backend}).durable
    assert found({"broker_url": "redis://h", "result_backend": backend}).durable
    variables = {"STEM_REVOKE_STORE_URL": "redis://store"}
    assert found({"broker_url": "amqp://h", "result_backend": backend}, variables).revoke_store.value == "redis://store"


def test_sentinels_alone_are_a_store() -> None:
    conf = {
        "broker_url": "sentinel://:p@a:26379/0;sentinel://:p@b:26379/0",
        "broker_transport_options": {"master_name": "mymaster"},
        "result_backend": "rpc://",
    }
    settings = found(conf)
    assert settings.durable
    assert open_revoke_store(settings.revoke_store.value, name=settings.revoke_store.name)


def test_stem_s_own_programs_ask_for_a_store_as_ever() -> None:
    settings = Settings.from_env({"STEM_BROKER_URL": "amqp://h"})
    with pytest.raises(ConfigurationError, match="can't hold revocations"):
        open_revoke_store(settings.revoke_store.value, name=settings.revoke_store.name)


def django_with(monkeypatch: pytest.MonkeyPatch, **database: Any) -> str | None:
    conf = ModuleType("django.conf")
    conf.settings = type("Configured", (), {"configured": True, "DATABASES": {"default": database}})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "django", ModuleType("django"))
    monkeypatch.setitem(sys.modules, "django.conf", conf)
    source = django_store()
    return None if source is None else source.value


def test_the_database_of_a_django_project_as_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    postgres, sqlite = "django.db.backends.postgresql", "django.db.backends.sqlite3"
    for database, wanted in (
        ({"ENGINE": sqlite, "NAME": Path("/var/db.sqlite3")}, "sqlite:////var/db.sqlite3"),
        ({"ENGINE": sqlite, "NAME": ":memory:"}, None),
        ({"ENGINE": postgres, "NAME": "shop", "USER": "u", "PASSWORD": "p@/", "HOST": "h", "PORT": 5433,
          "OPTIONS": {"sslmode": "require", "isolation_level": 4}},
         "postgresql://u:p%40%2F@h:5433/shop?sslmode=require"),
        ({"ENGINE": postgres, "NAME": "shop", "HOST": "/run/pg", "PORT": "5433"},
         "postgresql:///shop?host=%2Frun%2Fpg&port=5433"),
        ({"ENGINE": postgres, "NAME": "shop", "OPTIONS": {"service": "shop"}}, None),
        ({"ENGINE": "django.db.backends.mysql", "NAME": "shop"}, None),
        ({}, None),
    ):  # fmt: skip
        assert django_with(monkeypatch, **database) == wanted


def test_a_django_project_on_rabbitmq_keeps_revocations_in_its_database(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "db.sqlite3"}
    assert django_with(monkeypatch, **database) is not None
    settings = found({"broker_url": "amqp://h", "result_backend": "django-db"})
    assert settings.revoke_store.value == f"sqlite:///{tmp_path}/db.sqlite3"
    assert settings.durable
    # not where a place was there before
    assert found({"broker_url": "redis://h", "result_backend": "django-db"}).revoke_store.value == "redis://h"
    app = install(Celery("shop", broker="amqp://h", backend="redis://r", set_as_current=False))
    assert settings_of(app).revoke_store.value == "redis://r"
