"""``celery control`` and a Stem worker: Celery's verbs become Stem's directives and orders."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.autoscale import Autoscale
from stem_kombu.celery_monitors.verbs import Changes, SteeringVerbs
from stem_kombu.clock import SYSTEM
from stem_kombu.control.directive_writer import Author, Plan
from stem_kombu.control.server.worker_view import InForce, Setting
from stem_kombu.directive import Directive, Kind
from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.cli.program import Program
from tests.control.fleet import FakeWorker, identity
from tests.waiting import eventually

NODE = "stem-1@here"


class Fleet:
    """One Stem worker, and the unmodified ``celery control`` of its broker."""

    def __init__(self, shop: Shop, folder: Path, **variables: str) -> None:
        self.broker = shop.broker
        places = {"STEM_BROKER_URL": shop.broker, "STEM_RESULT_BACKEND_URL": shop.backend}
        self.program = Program(folder, places | variables)
        self.start()

    def start(self) -> None:
        self.worker = self.program.start_worker("--name", NODE, "-c", "1", "-Q", "stem,other")

    def control(self, *verb: str) -> Any:
        """What the worker answered to ``celery control``."""

        def asked() -> Any:
            done = subprocess.run(
                [sys.executable, "-m", "celery", "--broker", self.broker, "control",
                 "--json", "--timeout", "10", "--destination", NODE, *verb],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            return done.stdout and json.loads(done.stdout)

        # What Redis broadcasts while a subscription is young may be lost: asked again.
        answers = eventually(asked, 90)
        return answers[NODE] if isinstance(answers, dict) else answers[0][NODE]

    def settings(self) -> Any:
        (reply,) = self.program.ok("worker", "stats", "--json").json["replies"]
        return reply["payload"]["settings"]


@pytest.fixture
def fleet(shop: Shop, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(shop, tmp_path)
    yield made
    made.program.close()


def test_celery_control_pauses_and_resumes_a_queue_of_a_stem_worker_for_good(fleet: Fleet, tmp_path: Path) -> None:
    assert fleet.control("cancel_consumer", "stem") == {"ok": "no longer consuming from stem"}
    setting = fleet.settings()["pause"]["stem"]
    assert (setting["value"], setting["workers"], setting["requested_by"]) == (True, NODE, "celery control")
    waiting = fleet.program.send("shop.add", "--queue", "stem", a=1)
    assert fleet.program.ended(fleet.program.send("shop.add", "--queue", "other", a=1))["state"] == "succeeded"
    assert fleet.program.record(waiting)["state"] == "queued"
    # A worker of that name that starts again obeys.
    assert fleet.worker.terminate() == 0
    fleet.start()
    assert fleet.program.record(waiting)["state"] == "queued"
    assert fleet.control("add_consumer", "stem") == {"ok": "add consumer stem"}
    assert fleet.program.ended(waiting)["state"] == "succeeded"
    assert "already consuming" in fleet.control("add_consumer", "stem")["ok"]
    entries = fleet.program.ok("audit", "list", "--json").json["entries"]
    assert {(one["action"], one["requester"]) for one in entries} >= {
        ("pause", "celery control"), ("resume", "celery control"),
    }  # fmt: skip


def test_celery_control_scales_limits_and_stops_a_stem_worker(fleet: Fleet, tmp_path: Path) -> None:
    assert fleet.control("pool_grow", "2") == {"ok": "pool will grow"}
    gates = [Gate(tmp_path / f"gate-{number}") for number in range(3)]
    running = [fleet.program.send("shop.render", "--queue", "stem", gate=gate.path) for gate in gates]
    for gate in gates:
        gate.wait_reached()
    assert fleet.control("pool_shrink", "1") == {"ok": "pool will shrink"}
    assert fleet.settings()["concurrency"][""]["value"] == 2
    assert "may have 1 to" in fleet.control("pool_shrink", "2")["error"]
    # A gate waits for a minute only, and each question of Celery's takes seconds on a busy machine.
    for gate in gates:
        gate.open()

    assert fleet.control("rate_limit", "shop.add", "10/m") == {"ok": "new rate limit set successfully"}
    value = fleet.settings()["rate-limit"]["task:shop.add"]["value"]
    assert (value["rate"], value["each"]) == ("10/m", True)
    assert "unknown task" in fleet.control("rate_limit", "shop.nothing", "10/m")["error"]
    assert "invalid rate limit" in fleet.control("rate_limit", "shop.add", "5/fortnight")["error"]
    assert fleet.control("rate_limit", "shop.add", "0") == {"ok": "rate limit disabled successfully"}
    assert "rate-limit" not in fleet.settings()

    assert fleet.control("autoscale", "3", "1") == {"ok": "autoscale now 3-1"}
    for verb in (("time_limit", "shop.add", "10"), ("add_consumer", "elsewhere")):
        assert "unsupported" in fleet.control(*verb)["error"]
    assert fleet.control("shutdown") == {"ok": "warm shutdown"}
    assert fleet.worker.wait_code() == 0
    assert [fleet.program.ended(one)["state"] for one in running] == ["succeeded"] * 3


@pytest.mark.parametrize("shop", ["redis"], indirect=True)
def test_a_fleet_with_keys_refuses_celerys_verbs(shop: Shop, tmp_path: Path) -> None:
    key = "a" * 64
    fleet = Fleet(shop, tmp_path, STEM_SIGNING_KEYS=f"ops:{key}", STEM_SIGNING_ACTIVE_KEY="ops")
    try:
        for verb in (("cancel_consumer", "stem"), ("pool_grow", "1"), ("rate_limit", "shop.add", "1/s"), ("shutdown",)):
            assert "refused" in fleet.control(*verb)["error"]
        assert fleet.program.ok("directives", "list", "--json").json["directives"] == []
        assert fleet.worker.process.poll() is None
    finally:
        fleet.program.close()


@pytest.mark.parametrize(
    ("verb", "arguments", "said"),
    [
        ("pool_grow", {"n": 0}, "0 is no number of children"),
        ("pool_grow", {"n": True}, "True is no number of children"),
        ("pool_grow", {"n": "many"}, "'many' is no number of children"),
        ("autoscale", {"max": 8}, "runs no isolate tasks"),
        ("cancel_consumer", {}, "not started for queue None"),
        ("add_consumer", {"queue": ["mail"]}, "not started for queue"),
        ("rate_limit", {"task_name": ["x"], "rate_limit": "1/s"}, "unknown task"),
        *(("rate_limit", {"task_name": "mail.send", "rate_limit": rate}, "invalid rate limit")
          for rate in ("1e999999999", "nan/s", "-1/s", "1e400", "1/0", "0.0000001/h", "1/h/h", {}, True)),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_answered_and_store_nothing(
    verb: str, arguments: dict[str, Any], said: str
) -> None:
    def stores() -> Any:
        raise AssertionError("nothing may be stored")

    verbs = SteeringVerbs(FakeWorker(identity("alpha")), Changes(stores, stores), lambda: ["mail.send"])
    assert said in verbs.handlers()[verb](None, **arguments)["error"]


@pytest.mark.parametrize(
    ("held", "arguments", "said"),
    [
        (2, {"max": 8, "min": 1}, "autoscale now 8-1"),
        (Autoscale(1, 8).value(), {"max": 4}, "autoscale now 4-1"),
        (Autoscale(1, 8).value(), {"min": 3}, "autoscale now 8-3"),
        (2, {"max": 8}, "min None is not a whole number"),
        (2, {"max": 1, "min": 4}, "from 4 to 1 children is no range"),
        (2, {"max": True, "min": 1}, "max True is not a whole number"),
        (2, {"max": 8, "min": 0}, "from 0 to 8 children is no range"),
    ],
)
def test_autoscale_takes_a_bound_that_is_not_given_from_what_holds(held: Any, arguments: Any, said: str) -> None:
    class Scaled(FakeWorker):
        def settings(self) -> InForce:
            return {Kind.CONCURRENCY.value: {None: Setting(held, 1)}}

    verbs = SteeringVerbs(Scaled(identity("alpha")), Changes(lambda _: None, NothingIsStored), list)
    (answer,) = verbs.handlers()["autoscale"](None, **arguments).values()
    assert said in answer


class NothingIsStored:
    """Takes what is to be stored, and stores nothing."""

    def save(self, action: str, plan: Plan, author: Author) -> list[Directive]:
        (draft,) = plan([], SYSTEM.utcnow())
        assert (action, draft.kind, draft.workers) == ("autoscale", Kind.CONCURRENCY, "alpha")
        return []
