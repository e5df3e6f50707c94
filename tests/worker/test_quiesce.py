"""A consumer that is told to fetch nothing more: when that is so, and what becomes of what was under way already."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from stem_kombu.app import Stem
from stem_kombu.clock import SYSTEM
from stem_kombu.control.server.worker_view import WorkerIdentity
from stem_kombu.transports.connections import broker_connection
from stem_kombu.transports.registry import open_transport
from stem_kombu.worker.ack_queue import AckQueue
from stem_kombu.worker.active_directives import ActiveDirectives
from stem_kombu.worker.consumer import Consumer
from stem_kombu.worker.deliveries import InFlight
from stem_kombu.worker.intake import ConsumedQueues, Intake
from stem_kombu.worker.ownership import Ownership
from tests.waiting import consistently, eventually


class Stuck:
    """A consumer whose thread stands in the receipt of its first message until ``let_go`` is set."""

    def __init__(self, app: Stem) -> None:
        self.entered, self.let_go, self.quiet = threading.Event(), threading.Event(), threading.Event()
        self.received: list[Any] = []
        self.template: Any = broker_connection(app.settings)
        transport = open_transport(self.template)
        self.consumer = Consumer(
            transport,
            ConsumedQueues(("default",)),
            InFlight(SYSTEM),
            AckQueue(),
            Ownership(transport.leases(), SYSTEM),
            ActiveDirectives(WorkerIdentity.here("stem", "stuck", SYSTEM.utcnow()), ["default"], SYSTEM.utcnow),
            Intake(lambda: 5, self._receive, malformed=print, reconnected=lambda: None, lost=lambda: None),
            SYSTEM,
        )

    def _receive(self, message: Any, generation: int) -> None:
        self.received.append(message)
        self.entered.set()
        assert self.let_go.wait(60)

    def begin_to_quiesce(self) -> None:
        def quiesce() -> None:
            self.consumer.quiesce()
            self.quiet.set()

        threading.Thread(target=quiesce, daemon=True).start()


@pytest.fixture
def stuck(app: Stem) -> Iterator[Stuck]:
    for number in range(5):
        app.send_task("inline.add", [number])
    stuck = Stuck(app)
    stuck.consumer.start()
    assert stuck.entered.wait(60)
    yield stuck
    stuck.let_go.set()
    stuck.consumer.stop()


def test_g20_nothing_is_taken_in_any_more_once_a_consumer_is_quiet(stuck: Stuck) -> None:
    # A worker then gives back what it holds; a message that was taken in after that would be held by nobody.
    stuck.begin_to_quiesce()
    consistently(lambda: not stuck.quiet.is_set())
    stuck.let_go.set()
    assert stuck.quiet.wait(60)
    assert not stuck.consumer.consuming


def test_g20_what_arrived_and_was_not_taken_in_goes_back_to_its_queue_at_once(stuck: Stuck, app: Stem) -> None:
    # Not when the worker ends: what it finishes first may take an hour.
    stuck.begin_to_quiesce()
    eventually(lambda: stuck.consumer._quiet.is_set())
    stuck.let_go.set()
    depths = open_transport(stuck.template).depths()
    try:
        eventually(lambda: depths.of(["default"]) == {"default": 4}, 30, lambda: str(depths.of(["default"])))
    finally:
        depths.close()
    assert len(stuck.received) == 1
