"""Every transport of Kombu has a row in docs/transports.md, and is used, or refused at once with a sentence."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import metadata
from pathlib import Path

import pytest
from kombu.transport import TRANSPORT_ALIASES

from stem_kombu.errors import ConfigurationError
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.registry import open_transport

PAGE = Path(__file__).resolve().parents[2] / "docs" / "transports.md"
#: Those that are Stem's own, under another name than their driver's.
OWN = {"sqlite"}
#: What has to be installed for those that Stem does not bring, by alias.
NEEDS = {
    "azureservicebus": "azure.servicebus",
    "azurestoragequeues": "azure.storage.queue",
    "confluentkafka": "confluent_kafka",
    "consul": "consul",
    "etcd": "etcd",
    "gcpubsub": "google.cloud.pubsub_v1",
    "kafka": "confluent_kafka",
    "librabbitmq": "librabbitmq",
    "mongodb": "pymongo",
    "pgmq": "pgmq",
    "pyro": "Pyro4",
    "qpid": "qpidtoollibs",
    "slmq": "softlayer_messaging",
    "sqs": "boto3",
    "zookeeper": "kazoo",
}
FORGET = {"azurestoragequeues", "consul", "etcd", "mongodb", "pyro", "zookeeper"}
ALIASES = sorted({alias.lower() for alias in TRANSPORT_ALIASES} - OWN)


def is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def url_of(alias: str) -> str:
    return {
        "sqla": "sqla+sqlite:////tmp/none.db",
        "sqlalchemy": "sqlalchemy+sqlite:////tmp/none.db",
        "sentinel": "sentinel://localhost/0?master_name=shop",
    }.get(alias, f"{alias}://localhost")


@pytest.mark.parametrize("alias", ALIASES)
def test_a_transport_is_used_or_refused_with_a_sentence_that_says_what_to_install(alias: str) -> None:
    if alias in {"sqla", "sqlalchemy"}:
        pytest.importorskip("sqlalchemy")
    if alias in NEEDS and not is_there(NEEDS[alias]):
        with pytest.raises(ConfigurationError, match=f"STEM_BROKER_URL: the driver for {alias}:// can't be") as missing:
            open_connection(url_of(alias), name="STEM_BROKER_URL")
        hint = str(missing.value.hint)
        assert hint in PAGE.read_text(), "the page says the same"
        extra = re.fullmatch(r"pip install 'kombu\[(\w+)\]'", hint)
        assert hint == "pip install python-etcd" or (extra and extra[1] in metadata("kombu").get_all("Provides-Extra"))
        return
    transport = open_transport(open_connection(url_of(alias), name="STEM_BROKER_URL"))
    assert transport.capabilities.forgets_held == (alias in FORGET)
    if alias in FORGET:
        with pytest.raises(ConfigurationError, match="does not deliver again what a killed worker held"):
            transport.refuse_unfit()


@pytest.mark.parametrize("alias", ALIASES)
def test_it_has_a_row_in_the_page_that_says_the_same(alias: str) -> None:
    table = PAGE.read_text().partition("## Every transport")[2].partition("\n## ")[0]
    (row,) = (line for line in table.splitlines() if re.match(rf"\| [^|]*`{alias}://`", line))
    held = row.split("|")[3]
    assert ("refuses to start" in held) == (alias in FORGET), row
    if alias in NEEDS:
        assert "pip install" in row or alias == "sqs", row
