"""One resolver for CLI and worker: flag beats variable beats default, and errors name what they came from."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.app import Stem
from stem_kombu.errors import ConfigurationError
from stem_kombu.redaction import mask_url
from stem_kombu.settings import Settings, SigningSettings, TlsSettings
from stem_kombu.urls import sqlite_path


def test_a_flag_beats_the_variable_and_the_variable_beats_the_default() -> None:
    environ = {"STEM_BROKER_URL": "redis://from-env/0", "STEM_CONTROL_TIMEOUT": "2s"}
    assert Settings.from_env(environ).broker.value == "redis://from-env/0"
    assert Settings.from_env(environ, broker="redis://from-flag/0").broker.value == "redis://from-flag/0"
    assert Settings.from_env(environ).control_timeout == 2.0
    assert Settings.from_env(environ, timeout="250ms").control_timeout == 0.25
    assert Settings.from_env({}).control_timeout == 5.0


@pytest.mark.parametrize(
    ("environ", "expected", "source"),
    [
        (
            {"STEM_REVOKE_STORE_URL": "redis://s", "STEM_RESULT_BACKEND_URL": "redis://b", "STEM_BROKER_URL": "redis://q"},
            "redis://s",
            "STEM_REVOKE_STORE_URL",
        ),
        ({"STEM_RESULT_BACKEND_URL": "redis://b", "STEM_BROKER_URL": "redis://q"}, "redis://b", "STEM_RESULT_BACKEND_URL"),
        ({"STEM_BROKER_URL": "redis://q"}, "redis://q", "STEM_BROKER_URL"),
        ({"STEM_REVOKE_STORE_URL": "   ", "STEM_BROKER_URL": "redis://q"}, "redis://q", "STEM_BROKER_URL"),
    ],
)  # fmt: skip
def test_the_revoke_store_is_the_store_then_the_backend_then_the_broker(
    environ: dict[str, str], expected: str, source: str
) -> None:
    store = Settings.from_env(environ).revoke_store
    assert (store.value, store.name) == (expected, source)


def test_the_roster_is_kept_in_the_backend_else_beside_the_revocations() -> None:
    both = {"STEM_BROKER_URL": "redis://q", "STEM_REVOKE_STORE_URL": "redis://s"}
    assert Settings.from_env(both).roster.value == "redis://s"
    assert Settings.from_env({**both, "STEM_RESULT_BACKEND_URL": "redis://b"}).roster.value == "redis://b"


def test_without_a_broker_everything_is_embedded_in_the_per_user_state_folder(tmp_path: Path) -> None:
    settings = Settings.from_env({"XDG_STATE_HOME": str(tmp_path)})
    assert settings.embedded
    assert sqlite_path(settings.broker.value) == tmp_path / "stem" / "broker.db"
    assert settings.backend is not None
    assert settings.revoke_store == settings.backend
    assert not Settings.from_env({"STEM_BROKER_URL": "redis://q"}).embedded


def test_the_namespace_is_the_control_namespace_then_the_worker_namespace_then_stem() -> None:
    environ = {"STEM_CONTROL_NAMESPACE": "control", "STEM_WORKER_NAMESPACE": "worker"}
    assert Settings.from_env(environ).namespace == "control"
    assert Settings.from_env({**environ, "STEM_CONTROL_NAMESPACE": ""}).namespace == "worker"
    assert Settings.from_env({}).namespace == "stem"
    assert Settings.from_env(environ, namespace="flag").namespace == "flag"


def test_the_default_queue_of_a_namespace_is_its_own_and_queue_names_are_used_as_given() -> None:
    assert Settings.from_env({}).default_queue == "default"
    assert Settings.from_env({}, namespace="shop").default_queue == "shop.default"
    assert Settings.from_env({"STEM_DEFAULT_QUEUE": "celery"}, namespace="shop").default_queue == "celery"
    assert Settings.from_env({"STEM_WORKER_QUEUES": "a, b,a"}).worker_queues == ("a", "b")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("STEM_CONTROL_TIMEOUT", "soon"),
        ("STEM_CONTROL_TIMEOUT", "0"),
        ("STEM_HEARTBEAT_INTERVAL", "-1s"),
        ("STEM_PREFETCH_MULTIPLIER", "0"),
        ("STEM_PREFETCH_MULTIPLIER", "two"),
        ("STEM_INLINE_SLOTS", "0"),
        ("STEM_DEFAULT_MAX_RETRIES", "-1"),
        ("STEM_CONTROL_NAMESPACE", "no spaces"),
        ("STEM_CONTROL_NAMESPACE", "x" * 64),
        ("STEM_TLS_ALLOW_INSECURE", "definitely-not-true"),
        ("STEM_WORKER_QUEUES", "a,,b"),
    ],
)
def test_a_malformed_variable_is_an_error_that_names_it_and_its_value(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({variable: value})
    assert variable in str(caught.value)
    assert value in str(caught.value)


def test_a_blank_flag_is_an_error_rather_than_the_default() -> None:
    with pytest.raises(ConfigurationError, match="--broker is blank"):
        Settings.from_env({}, broker="  ")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@host:6379/0",
        "amqp://user:hunter2@host//",
        "amqp://user:hun:ter@hunter2@host//",
        "postgres://u:hunter2@db:5432/stem?application_name=x",
        "redis://host/0?password=hunter2",
        "postgres://db/stem?sslpassword=hunter2&x=1",
        "redis://:hunter2/with/slashes@host/0",
        "sentinel://:hunter2@a:1;sentinel://:hunter2@b:2",
        "nonsense://user:hunter2@[::bad/0",
        "redis://:hunter2#hash@host/0",
        "redis://:hunter2?q@host/0",
    ],
)
def test_no_password_survives_in_a_masked_url(url: str) -> None:
    assert "hunter2" not in mask_url(url)


def test_what_holds_no_password_is_shown_as_it_is() -> None:
    for url in (
        "redis://host:6379/0",
        "sqlite:////var/lib/stem.db",
        "/var/lib/revokes.stem",
        "memory://",
        "amqp://user@h//",
    ):
        assert mask_url(url) == url


def test_a_sqlite_url_names_an_absolute_file_with_three_slashes_or_four() -> None:
    assert sqlite_path("sqlite:///var/x.db") == sqlite_path("sqlite:////var/x.db") == Path("/var/x.db")
    for url in ("sqlite://", "sqlite:///", "sqlite://relative.db", "sqlite://host/x.db"):
        with pytest.raises(ConfigurationError, match="names no file"):
            sqlite_path(url, name="STEM_BROKER_URL")


def test_secrets_are_not_in_the_repr_of_settings() -> None:
    settings = Settings.from_env({"STEM_SIGNING_KEYS": "k1:aHVudGVyMg==", "STEM_SIGNING_ACTIVE_KEY": "k1"})
    assert "aHVudGVyMg" not in repr(settings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"namespace": "two words"}, "namespace=: 'two words' is not a namespace"),
        ({"broker": " "}, "broker= is blank"),
        ({"broker": 5}, "broker= is 5 (int)"),
        ({"timeout": "soon"}, "timeout=: 'soon' is not a duration"),
        (
            {"timeout": timedelta(seconds=1)},
            "timeout=: datetime.timedelta(seconds=1) (timedelta) is no number of seconds",
        ),
        ({"inline_slots": 0}, "inline_slots=: '0' is not a whole number"),
        ({"queues": "a,,b"}, "queues=: 'a,,b' has an empty name in it"),
        ({"signing": SigningSettings(keys=" ")}, "signing_keys= is blank"),
    ],
)
def test_an_application_s_own_setting_is_called_what_the_application_calls_it(given: dict[str, Any], said: str) -> None:
    app = Stem("shop", **given)
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        app.settings  # noqa: B018 - it is read for what it raises


def test_a_flag_is_called_a_flag_also_where_the_application_has_keywords() -> None:
    app = Stem("shop", namespace="shop")
    app.reconfigure(namespace="two words")
    with pytest.raises(ConfigurationError, match=r"^--namespace: 'two words' is not a namespace"):
        app.settings  # noqa: B018


@pytest.mark.parametrize(("keyword", "near"), [("brokr", "broker"), ("name_space", "namespace"), ("backnd", "backend")])
def test_a_keyword_that_is_no_setting_is_refused_where_it_is_given(keyword: str, near: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no setting '{keyword}'") as told:
        Stem("shop", **{keyword: "any"})
    assert told.value.hint == f"did you mean {near}=?"


def test_tls_files_are_flags_and_variables_alike() -> None:
    environ = {"STEM_TLS_CA_CERT": "/env/ca.pem", "STEM_TLS_CLIENT_KEY": "/env/key.pem"}
    given = TlsSettings(ca_cert="/flag/ca.pem", allow_insecure=True)
    tls = Settings.from_env(environ, tls=given).tls
    assert tls == TlsSettings("/flag/ca.pem", None, "/env/key.pem", allow_insecure=True)
    with pytest.raises(ConfigurationError, match=r"^--tls-ca-cert is blank"):
        Settings.from_env({}, tls=TlsSettings(ca_cert=""))


def test_a_user_without_a_home_folder_is_told_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigurationError, match="no home folder") as told:
        Settings.from_env({})
    assert "XDG_STATE_HOME" in str(told.value.hint)
    assert Settings.from_env({"XDG_STATE_HOME": "/var/lib"}).broker.value == "sqlite:///var/lib/stem/broker.db"
