"""Brokers whose messages Stem leases itself, as Kombu's transports forget who holds them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.task import TaskMessage
from stem_kombu.transports.base import TaskConsumer, Transport
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.producer import TaskProducer
from stem_kombu.transports.registry import open_transport

KINDS = ["sqla_sqlite", "sqla_postgres", "filesystem"]


@dataclass(frozen=True)
class LeasedBroker:
    """Its URL, and Kombu's transport options, to which a lease of ``lease`` seconds comes."""

    kind: str
    url: str
    lease: float
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def all_options(self) -> dict[str, Any]:
        return {**self.options, "visibility_timeout": self.lease}

    @property
    def variables(self) -> dict[str, str]:
        """What the command line needs."""
        return {"STEM_BROKER_URL": self.url, "STEM_BROKER_TRANSPORT_OPTIONS": json.dumps(self.all_options)}

    def connection(self) -> Any:
        """A template."""
        return open_connection(self.url, options=self.all_options)

    def transport(self) -> Transport:
        return open_transport(self.connection())

    def consumer(self, *queues: str, clock: Clock = SYSTEM) -> TaskConsumer:
        return self.transport().consumer(queues, clock=clock)

    def send(self, queue: str, *ids: str) -> None:
        producer = TaskProducer(self.connection)
        producer.send_many(TaskMessage(each, "shop.render", queue=queue) for each in ids)
        producer.close()


def leased_broker(request: pytest.FixtureRequest, kind: str, folder: Path, lease: float) -> LeasedBroker:
    """The broker of that kind, empty, in a folder of the test."""
    if kind == "filesystem":
        folders = {name: folder / name for name in ("messages", "control")}
        for each in folders.values():
            each.mkdir()
        messages = str(folders["messages"])
        options = {"data_folder_in": messages, "data_folder_out": messages, "control_folder": str(folders["control"])}
        return LeasedBroker(kind, "filesystem://", lease, options)
    pytest.importorskip("sqlalchemy")
    if kind == "sqla_sqlite":
        return LeasedBroker(kind, f"sqla+sqlite:///{folder / 'kombu.db'}", lease)
    url: str = request.getfixturevalue("postgres_url")
    return LeasedBroker(kind, f"sqla+{url.replace('postgresql', 'postgresql+psycopg2')}", lease)
