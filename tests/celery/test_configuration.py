"""What Stem takes from a Celery application's configuration. No server is asked."""

from __future__ import annotations

import sqlite3
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from stem_kombu.backends.registry import open_roster
from stem_kombu.celery import install, settings_of
from stem_kombu.settings import Settings, TlsSettings
from stem_kombu.transports.connections import broker_connection


def settings(conf: dict[str, Any], environ: dict[str, str] | None = None, **given: Any) -> Settings:
    from stem_kombu.celery.configuration import host_of

    app = Celery("shop", set_as_current=False)
    app.conf.update(conf)
    return Settings.from_env(environ or {}, host=host_of(app), **given)


REDIS = {"broker_url": "redis://broker/0", "result_backend": "redis://results/1"}


def test_broker_backend_and_store_are_celerys() -> None:
    found = settings(REDIS)
    assert (found.broker.value, found.revoke_store.value) == ("redis://broker/0", "redis://results/1")
    assert found.backend is not None
    assert found.backend.value == "redis://results/1"
    assert found.broker.name == "broker_url of the Celery application"


def test_flags_then_variables_then_the_application() -> None:
    conf = {**REDIS, "stem_namespace": "shop", "stem_revoke_store": "redis://conf/9"}
    variables = {
        "STEM_CONTROL_NAMESPACE": "env",
        "STEM_REVOKE_STORE_URL": "redis://env/9",
        "STEM_BROKER_URL": "amqp://env",
    }
    for found, wanted in (
        (settings(conf), ("shop", "redis://conf/9", "redis://broker/0")),
        (settings(conf, variables), ("env", "redis://env/9", "amqp://env")),
        (settings(conf, variables, namespace="flag", revoke_store="redis://flag/9"), ("flag", "redis://flag/9", "amqp://env")),
    ):  # fmt: skip
        assert (found.namespace, found.revoke_store.value, found.broker.value) == wanted


def test_the_namespace_may_stand_in_a_django_project_s_settings() -> None:
    app = Celery("shop", broker="redis://broker/0", set_as_current=False)
    app.config_from_object(
        SimpleNamespace(CELERY_STEM_NAMESPACE="shop", CELERY_TASK_ALWAYS_EAGER=False), namespace="CELERY"
    )
    assert settings_of(app).namespace == "shop"


@pytest.mark.parametrize(
    ("backend", "wanted"),
    [
        ("rediss://:p@r:6380/1?ssl_cert_reqs=CERT_NONE", "rediss://:p@r:6380/1?ssl_cert_reqs=CERT_NONE"),
        ("db+postgresql+psycopg2://u:p@h/d", "postgresql://u:p@h/d"),
        ("db+sqlite:////var/results.db", "sqlite:////var/results.db"),
        ("db+sqlite:///results.db", f"sqlite:///{Path('results.db').absolute()}"),
        ("db+sqlite://", None),
        ("rpc://", None),
        ("cache+memcached://h/", None),
        ("mongodb://h/d", None),
        (None, None),
    ],
)
def test_a_result_backend_is_used_where_it_can_be(backend: str | None, wanted: str | None) -> None:
    found = settings({"broker_url": "redis://broker/0", "result_backend": backend})
    assert (None if found.backend is None else found.backend.value) == wanted


def test_sentinels_become_one_url() -> None:
    found = settings(
        {
            "broker_url": "sentinel://:p@a:26379/0;sentinel://:p@b:26379/0",
            "broker_transport_options": {"master_name": "mymaster"},
            "result_backend": "sentinel://:p@a:26379/2;sentinel://:p@b:26379/2",
            "result_backend_transport_options": {"master_name": "mymaster"},
        }
    )
    assert found.backend is not None
    assert found.backend.value == "sentinel://:p@a:26379,b:26379/2?master_name=mymaster"
    assert broker_connection(found).transport_options["master_name"] == "mymaster"


def test_failover_brokers_are_all_kept_and_a_store_is_the_first_of_them() -> None:
    found = settings({"broker_url": ["redis://a/0", "redis://b/0"]})
    assert (found.broker.value, found.revoke_store.value) == ("redis://a/0;redis://b/0", "redis://a/0")


def test_transport_options_are_taken_except_those_that_stem_decides() -> None:
    found = settings({**REDIS, "broker_transport_options": {"global_keyprefix": "shop-", "visibility_timeout": 43_200}})
    options = broker_connection(found).transport_options
    assert options["global_keyprefix"] == "shop-"
    assert options["visibility_timeout"] == 60  # of what Stem's own workers and commands hold
    # They belong to that broker alone.
    other = settings({**REDIS, "broker_transport_options": {"global_keyprefix": "shop-"}}, broker="redis://other/0")
    assert "global_keyprefix" not in broker_connection(other).transport_options


def test_tls_of_the_broker_and_of_the_backend() -> None:
    files = {"ca_certs": "/ca.pem", "certfile": "/c.pem", "keyfile": "/k.pem", "cert_reqs": ssl.CERT_REQUIRED}
    found = settings({"broker_url": "amqp://h//", "broker_use_ssl": files, "result_backend": "redis://r/0",
                      "redis_backend_use_ssl": {f"ssl_{key}": value for key, value in files.items()}})  # fmt: skip
    assert found.backend is not None
    assert (found.broker.value, found.backend.value) == ("amqps://h//", "rediss://r/0")
    assert found.tls == TlsSettings("/ca.pem", "/c.pem", "/k.pem")
    assert settings({"broker_url": "amqp://h//", "broker_use_ssl": True}).broker.value == "amqps://h//"
    unverified = settings({"broker_url": "redis://h/0", "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_NONE}})
    assert (unverified.broker.value, unverified.tls.allow_insecure) == ("rediss://h/0", True)
    with_variables = settings({"broker_url": "amqp://h//", "broker_use_ssl": files}, {"STEM_TLS_CA_CERT": "/own.pem"})
    assert with_variables.tls == TlsSettings("/own.pem")


def test_a_file_with_results_of_celery_has_room_for_the_roster(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "results.db") as file:
        file.execute("CREATE TABLE celery_taskmeta (id INTEGER PRIMARY KEY, task_id VARCHAR(155), status VARCHAR(50))")
    found = settings({"broker_url": "redis://b/0", "result_backend": f"db+sqlite:///{tmp_path}/results.db"})
    assert found.backend is not None
    roster = open_roster(found.backend.value)
    assert not roster.view("stem").heartbeats
    roster.close()


def test_installing_twice_is_installing_once_and_imports_next_to_nothing() -> None:
    app = Celery("shop", set_as_current=False)
    assert app.control  # made before, and replaced
    assert install(install(app), namespace="second") is app
    assert app.stem_options == {"namespace": "second"}
    assert len(app.steps["worker"]) == 1
    assert type(app.control).__name__ == "DurableControl"
