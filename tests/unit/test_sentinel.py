"""One address of sentinels, in three spellings."""

from __future__ import annotations

from typing import Any

import pytest

from stem_kombu.errors import ConfigurationError
from stem_kombu.sentinel import SentinelAddress, sentinel_address
from stem_kombu.settings import Settings
from stem_kombu.transports.connections import open_connection

PLACES = (("h1", 26379), ("h2", 26380))


@pytest.mark.parametrize(
    ("url", "options", "wanted"),
    [
        ("sentinel://h1:26379,h2:26380/0?master_name=m", {}, SentinelAddress(PLACES, "m")),
        ("sentinel://h1,h2:26380?master_name=m", {}, SentinelAddress(PLACES, "m")),
        ("sentinel://:p%40w@h1,h2:26380/3?master_name=m", {}, SentinelAddress(PLACES, "m", 3, password="p@w")),
        ("sentinel://u:p@h1,h2:26380/3?master_name=m", {}, SentinelAddress(PLACES, "m", 3, "u", "p")),
        ("sentinel://h1:26379;sentinel://h2:26380", {"master_name": "m"}, SentinelAddress(PLACES, "m")),
        (
            "sentinel://:p@h1/2;sentinel://:p@h2:26380/2",
            {"master_name": "m"},
            SentinelAddress(PLACES, "m", 2, password="p"),
        ),
        ("sentinel://[::1]:1,[::2]/0?master_name=m", {}, SentinelAddress((("::1", 1), ("::2", 26379)), "m")),
        (
            "sentinel://h1,h2:26380/0?master_name=m&sentinel_username=su&sentinel_password=sp",
            {},
            SentinelAddress(PLACES, "m", sentinel_kwargs={"username": "su", "password": "sp"}),
        ),
        (
            "sentinel://h1,h2:26380",
            {"master_name": "m", "sentinel_kwargs": {"password": "sp"}},
            SentinelAddress(PLACES, "m", sentinel_kwargs={"password": "sp"}),
        ),
        ("sentinel://h1,h2:26380?ssl=true", {"master_name": "m"}, SentinelAddress(PLACES, "m", query={"ssl": "true"})),
        ("sentinel://h1,h2:26380?master_name=own", {"master_name": "m"}, SentinelAddress(PLACES, "own")),
        ("redis+sentinel://h1,h2:26380/m/1", {}, SentinelAddress(PLACES, "m", 1, encrypted_by_settings=True)),
        ("redis+sentinel://h1,h2:26380/m", {}, SentinelAddress(PLACES, "m", encrypted_by_settings=True)),
    ],
)
def test_every_spelling_is_understood_and_stems_own_means_the_same(
    url: str, options: dict[str, Any], wanted: SentinelAddress
) -> None:
    found = sentinel_address(url, options=options)
    assert found == wanted
    assert sentinel_address(found.url) == found


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sentinel://h1,h2/0", "does not name the master"),
        ("sentinel://h1:x/0?master_name=m", "no host:port"),
        ("sentinel://h1:70000/0?master_name=m", "no host:port"),
        ("sentinel://,h2/0?master_name=m", "no host:port"),
        ("sentinel://?master_name=m", "no host:port"),
        ("sentinel://h1:25redis]:6379/0?master_name=m", "no host:port"),
        ("sentinel://h1[::1]:26379/0?master_name=m", "no host:port"),
        ("sentinel://[h1]:26379/0?master_name=m", "no host:port"),
        ("sentinel://[::1/0?master_name=m", "no host:port"),
        ("sentinel://h1%2Fx/0?master_name=m", "no host:port"),
        ("sentinel://h1,h{2/0?master_name=m", "no host:port"),
        ("redis+sentinel://h1:263[::0#x]:6379/0/0?sentinel_password=x", "no host:port"),
        ("sentinel://h1/m/first", "names a database"),
    ],
)
def test_what_can_not_be_read_is_refused_by_name_without_its_password(url: str, told: str) -> None:
    url = url.replace("://", "://:topsecret@")
    with pytest.raises(ConfigurationError, match=told) as refused:
        sentinel_address(url, name="--broker")
    assert "--broker" in refused.value.message and "topsecret" not in refused.value.message


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://:p@h1:26379,h2:26380/4?master_name=m&sentinel_password=sp",
        "redis+sentinel://:p@h1:26379,h2:26380/m/4?sentinel_password=sp",
    ],
)
def test_kombu_is_told_of_all_sentinels(url: str) -> None:
    connection = open_connection(url)
    options = connection.transport_options or {}
    assert connection.alt == ["sentinel://:p@h1:26379/4", "sentinel://:p@h2:26380/4"]
    assert (options["master_name"], options["sentinel_kwargs"]["password"]) == ("m", "sp")
    assert (connection.virtual_host, connection.password) == ("4", "p")
    assert options["sentinel_kwargs"]["socket_timeout"] > 0  # one that hangs must not hang its clients


def test_backend_and_store_are_found_by_the_options_of_the_broker() -> None:
    options = '{"master_name": "m", "sentinel_kwargs": {"password": "sp"}, "global_keyprefix": "shop:"}'
    found = Settings.from_env(
        {
            "STEM_BROKER_URL": "sentinel://:p@h1:26379;sentinel://:p@h2:26380/1",
            "STEM_RESULT_BACKEND_URL": "sentinel://:p@h1,h2:26380/2",
            "STEM_BROKER_TRANSPORT_OPTIONS": options,
        }
    )
    assert found.backend is not None
    assert found.backend.value == (
        "sentinel://:p@h1:26379,h2:26380/2?master_name=m&sentinel_password=sp&global_keyprefix=shop%3A"
    )
    beside = Settings.from_env(
        {
            "STEM_BROKER_URL": "sentinel://:p@h1:26379/1;sentinel://:p@h2:26380/1",
            "STEM_BROKER_TRANSPORT_OPTIONS": '{"master_name": "m"}',
        }
    )
    assert beside.revoke_store.value == "sentinel://:p@h1:26379,h2:26380/1?master_name=m"
