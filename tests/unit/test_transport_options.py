"""Transport options: where they may be given, which of two counts, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stem_kombu.errors import ConfigurationError
from stem_kombu.redaction import mask_url
from stem_kombu.settings import Settings
from stem_kombu.transport_options import checked_options, given_options, parsed_options, split_url

VARIABLE = "STEM_BROKER_TRANSPORT_OPTIONS"


def test_a_flag_beats_the_variable_which_beats_the_url_which_beats_the_application() -> None:
    application = {"global_keyprefix": "a:", "visibility_timeout": 1, "max_connections": 1, "sep": "a"}
    url = "redis://h/0?global_keyprefix=u:&visibility_timeout=2&max_connections=2"
    variable = json.dumps({"global_keyprefix": "v:", "visibility_timeout": 3})
    found = Settings.from_env(
        {VARIABLE: variable, "STEM_BROKER_URL": url},
        broker_option=["global_keyprefix=f:"],
        broker_options=application,
    )
    assert dict(found.broker_options) == {
        "global_keyprefix": "f:", "visibility_timeout": 3, "max_connections": 2, "sep": "a",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("visibility_timeout=30", "visibility_timeout", 30),
        ("priority_steps=[0,1,2]", "priority_steps", [0, 1, 2]),
        ("global_keyprefix=shop:", "global_keyprefix", "shop:"),
        ('global_keyprefix="shop:"', "global_keyprefix", "shop:"),
        ("global_keyprefix=7", "global_keyprefix", "7"),
        ("sep=:", "sep", ":"),
        ("sep==", "sep", "="),
        ("fanout_prefix=false", "fanout_prefix", False),
        ("socket_keepalive=True", "socket_keepalive", True),
        ('sentinel_kwargs={"password": "s"}', "sentinel_kwargs", {"password": "s"}),
        ("region=eu-west-1", "region", "eu-west-1"),
        ("is_secure=true", "is_secure", True),
        ('socket_keepalive_options={"4": 60}', "socket_keepalive_options", {4: 60}),
    ],
)
def test_an_option_is_json_or_a_text(text: str, key: str, value: Any) -> None:
    assert given_options([text], "--broker-option") == {key: value}


@pytest.mark.parametrize("text", ["", "=x", "shop", "a b=1", "1a=1"])
def test_what_is_not_key_and_json_is_refused_by_the_name_of_the_flag(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--broker-option"):
        given_options([text], "--broker-option")


@pytest.mark.parametrize("text", ["{", "[]", "7", '"x"', "nonsense", '{"a b": 1}', "[" * 10_000])
def test_a_variable_that_is_no_json_object_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match=VARIABLE):
        parsed_options(text, VARIABLE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("visibility_timeout", "soon"),
        ("visibility_timeout", -1),
        ("visibility_timeout", True),
        ("visibility_timeout", float("inf")),
        ("max_connections", 1.5),
        ("priority_steps", 5),
        ("priority_steps", []),
        ("priority_steps", [3, 0]),
        ("priority_steps", [0, 0]),
        ("priority_steps", ["0"]),
        ("priority_steps", [0, 256]),
        ("global_keyprefix", 7),
        ("sep", 1),
        ("retry_on_timeout", "yes"),
        ("fanout_prefix", 1),
        ("sentinel_kwargs", "secret"),
    ],
)
def test_a_value_that_means_nothing_to_the_redis_transport_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=key) as refused:
        checked_options({key: value}, "STEM_BROKER_URL")
    assert "STEM_BROKER_URL" in refused.value.message
    assert "secret" not in refused.value.message


def test_options_that_are_not_known_pass() -> None:
    checked_options({"a_new_one": object(), "visibility_timeout": None}, "URL")


@pytest.mark.parametrize(
    ("url", "rest", "options"),
    [
        ("redis://h/0?global_keyprefix=shop%3A", "redis://h/0", {"global_keyprefix": "shop:"}),
        ("redis://h/0?ssl=true&sep=:", "redis://h/0?ssl=true", {"sep": ":"}),
        (
            "rediss://h/0?ssl_cert_reqs=none&max_connections=3",
            "rediss://h/0?ssl_cert_reqs=none",
            {"max_connections": 3},
        ),
        ("redis+socket:///r.sock?virtual_host=2&sep=:", "redis+socket:///r.sock?virtual_host=2", {"sep": ":"}),
        ("redis+socket:///r.sock?client_cache=x", "redis+socket:///r.sock?client_cache=x", {}),
        ("amqp://a?heartbeat=5;amqp://b?x=1", "amqp://a?heartbeat=5;amqp://b", {"x": 1}),
        ("sqla+postgresql://h/d?sslmode=require", "sqla+postgresql://h/d?sslmode=require", {}),
        ("mongodb://h/d?replicaSet=r", "mongodb://h/d?replicaSet=r", {}),
        ("sqs://k:s@?region=eu-west-1", "sqs://k:s@", {"region": "eu-west-1"}),
        ("sqlite:///b.db?visibility_timeout=5", "sqlite:///b.db", {"visibility_timeout": 5}),
        ("redis://:pa?ss@h/0", "redis://:pa?ss@h/0", {}),
        ("redis://:pa?s=s@h/0", "redis://:pa?s=s@h/0", {}),
        ("sentinel://h?sentinel_password=p", "sentinel://h", {"sentinel_kwargs": {"password": "p"}}),
        ("?", "?", {}),
        ("?://h", "?://h", {}),
        ("./odd?name=x.db", "./odd?name=x.db", {}),
    ],
)
def test_the_query_of_a_url_is_split_into_what_the_connection_reads_and_options(
    url: str, rest: str, options: dict[str, Any]
) -> None:
    assert split_url(url) == (rest, options)


@pytest.mark.parametrize("name", ["STEM_RESULT_BACKEND_URL", "STEM_REVOKE_STORE_URL", "STEM_CELERY_RESULT_URL"])
def test_every_place_at_redis_has_the_prefix_of_the_broker_unless_its_url_has_another(name: str) -> None:
    env = {"STEM_BROKER_URL": "redis://h/0", VARIABLE: '{"global_keyprefix": "shop:"}'}
    for given, wanted in (
        ("redis://r/1", "redis://r/1?global_keyprefix=shop%3A"),
        ("redis://r/1?socket_timeout=3", "redis://r/1?socket_timeout=3&global_keyprefix=shop%3A"),
        ("redis://r/1?global_keyprefix=own-", "redis://r/1?global_keyprefix=own-"),
        ("postgresql://r/d", "postgresql://r/d"),
    ):
        found = Settings.from_env({**env, name: given})
        places = {"STEM_RESULT_BACKEND_URL": found.backend, "STEM_REVOKE_STORE_URL": found.revoke_store}
        place = places.get(name, found.celery_results)
        assert place is not None and place.value == wanted


def test_without_a_prefix_every_url_stays_as_it_was_given() -> None:
    found = Settings.from_env({"STEM_BROKER_URL": "redis://h/0", "STEM_RESULT_BACKEND_URL": "redis://r/1"})
    assert found.backend is not None and found.celery_results is not None
    assert [one.value for one in (found.broker, found.backend, found.revoke_store, found.celery_results)] == [
        "redis://h/0", "redis://r/1", "redis://r/1", "redis://r/1",
    ]  # fmt: skip


def test_a_store_beside_the_broker_is_found_without_what_concerns_a_broker_only() -> None:
    found = Settings.from_env({"STEM_BROKER_URL": "redis://h/0?global_keyprefix=shop:&visibility_timeout=9"})
    assert found.revoke_store.value == "redis://h/0?global_keyprefix=shop%3A"
    assert (
        Settings.from_env({"STEM_BROKER_URL": "sqlite:///b.db?busy_timeout=9"}).revoke_store.value == "sqlite:///b.db"
    )


def test_passwords_for_sentinels_are_masked_wherever_they_stand() -> None:
    for url in (
        "sentinel://:topsecret@h/0?master_name=m&sentinel_password=topsecret",
        'sentinel://h/0?sentinel_kwargs={"password":"topsecret"}',
    ):
        assert "topsecret" not in mask_url(url)
    found = Settings.from_env(
        {"STEM_BROKER_URL": "redis://h/0", VARIABLE: '{"sentinel_kwargs": {"password": "topsecret"}}'}
    )
    assert "topsecret" not in repr(found)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("--broker-option", {"broker_option": ["max_connections=x"]}),
        (VARIABLE, {"environ": {"STEM_BROKER_URL": "redis://h/0", VARIABLE: '{"max_connections": "x"}'}}),
        ("STEM_BROKER_URL", {"environ": {"STEM_BROKER_URL": "redis://h/0?max_connections=x"}}),
        ("broker_options", {"broker_options": {"max_connections": "x"}}),
    ],
)
def test_a_refusal_names_where_the_option_was_given(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}: transport option max_connections: 'x'"):
        Settings.from_env(**{"environ": {"STEM_BROKER_URL": "redis://h/0"}, **given})
