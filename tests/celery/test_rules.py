"""Revokes by group, chain, root and stamp on Celery workers: as rules, durable (G29)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import chain, group
from celery.exceptions import TaskRevokedError

from stem_kombu.celery import install
from stem_kombu.control.client.selecting import SelectedReport, SelectorClient
from stem_kombu.rule import Rule
from stem_kombu.selector import Selector
from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.waiting import eventually

POOLS = pytest.mark.parametrize(
    "pool",
    [("-c", "1"), ("-P", "threads", "-c", "1"), ("-P", "solo")],
    ids=["prefork", "threads", "solo"],
)


@pytest.fixture
def line(shop: Shop) -> Shop:
    """The shop's client has the line as well: what it sends is dated."""
    install(shop.app)
    return shop


def revoke(shop: Shop, *, terminate: bool = False, **conditions: Any) -> SelectedReport:
    with SelectorClient(shop.settings) as client:
        wish = client.wish(Selector.of(**conditions))
        found = client.select(wish, timeout=2.0)
        return client.revoke_selected(found, terminate=terminate, reason="INC-42", timeout=5.0)


def rules(shop: Shop) -> list[Rule]:
    with SelectorClient(shop.settings) as client:
        return client.live_rules()


def is_revoked(result: Any) -> str:
    with pytest.raises(TaskRevokedError) as caught:
        result.get(timeout=30)
    return str(caught.value)


def signature(shop: Shop, name: str, *args: Any) -> Any:
    return shop.app.signature(name, args, immutable=True)


@POOLS
def test_g29_a_rule_reaches_what_runs_and_what_waits_at_a_celery_worker(
    line: Shop, pool: tuple[str, ...], tmp_path: Path
) -> None:
    line.start(*pool)
    gate, held = Gate(tmp_path / "runs"), Gate(tmp_path / "held")
    later = line.send("shop.long", held.path, countdown=3600, headers={"deploy": "bad"})
    if "solo" not in pool:  # which reads nothing while it runs a task
        eventually(lambda: line.client.stats(timeout=15.0).replies[0].payload["totals"]["received"] == 1)
    runs = line.send("shop.render", gate.path, headers={"deploy": "bad"})
    gate.wait_reached()
    # when
    report = revoke(line, headers={"deploy": "bad"}, terminate=True)
    # then
    assert report.obeyed_by == ("alpha@shop",) and report.not_obeyed_by == ()
    assert report.selection.running == 1
    if "solo" not in pool:
        assert report.selection.held == 1
    assert "INC-42" in is_revoked(runs)
    if "solo" not in pool or report.selection.waiting is not None:
        assert report.report is not None
        assert {one.task_id for one in report.report.stored} >= {later.id, runs.id}
    # and what is sent later runs
    held.open()
    assert line.send("shop.long", held.path, headers={"deploy": "bad"}).get(timeout=30) == "once"


def test_g29_a_rule_holds_for_a_worker_that_starts_later(shop_on: Callable[[str], Shop], tmp_path: Path) -> None:
    shop = shop_on("amqp")  # which can't be searched: nothing is revoked by its id
    install(shop.app)
    plain = Gate(tmp_path / "plain")
    plain.open()
    first = [shop.send("shop.long", plain.path, headers={"deploy": "bad"}) for _ in range(3)]
    report = revoke(shop, headers={"deploy": "bad"})
    assert report.rule is not None and report.selection.total == 0
    after = shop.send("shop.add", 1, 2, headers={"deploy": "bad"})
    worker = shop.start("-c", "1")
    assert after.get(timeout=30) == 3
    assert all("INC-42" in is_revoked(result) for result in first)
    assert worker.terminate() == 0


def test_g29_a_rule_that_is_taken_back_lets_what_waits_run(line: Shop, tmp_path: Path) -> None:
    line.start("-c", "1")
    gate = Gate(tmp_path / "gate")
    gate.open()
    busy = Gate(tmp_path / "busy")
    line.send("shop.deaf", busy.path)
    busy.wait_reached()
    (result,) = [line.send("shop.long", gate.path, headers={"deploy": "bad"})]
    eventually(lambda: line.client.stats(timeout=15.0).replies[0].payload["totals"]["received"] == 2)
    with SelectorClient(line.settings) as client:
        # Nothing is found, so that the rule alone counts.
        wish = client.wish(Selector.of(headers={"deploy": "bad"}))
        found = client.select(wish, workers=["nobody@shop"], timeout=1.0)
        report = client.revoke_selected(found, timeout=15.0)
        assert report.rule is not None
        client.undo_rules(key=report.rule.key, timeout=15.0)
    assert report.report is None and report.obeyed_by == ("alpha@shop",)
    busy.open()
    assert result.get(timeout=30) == "once"


def test_g29_a_group_is_revoked_by_its_id(line: Shop, tmp_path: Path) -> None:
    gates = [Gate(tmp_path / f"{number}") for number in range(3)]
    for gate in gates:
        gate.open()
    sent = group(signature(line, "shop.long", gate.path) for gate in gates).apply_async()
    other = group([signature(line, "shop.add", 1, 2)]).apply_async()
    revoke(line, group=sent.id)
    line.start("-c", "1")
    assert other.get(timeout=30) == [3]
    assert all("INC-42" in is_revoked(result) for result in sent.results)
    assert [gate.reached("run-0") for gate in gates] == [None] * 3


@POOLS
def test_g29_a_chain_is_revoked_between_two_of_its_tasks(line: Shop, pool: tuple[str, ...], tmp_path: Path) -> None:
    """What follows was sent when its chain was, whatever the worker's clock says when it sends it on."""
    line.start(*pool)
    gate, follows = Gate(tmp_path / "first"), Gate(tmp_path / "follows")
    follows.open()
    last = chain(
        signature(line, "shop.deaf", gate.path),
        group([signature(line, "shop.long", follows.path), signature(line, "shop.add", 1, 2)]),
        signature(line, "shop.add", 1, 2),
    ).apply_async()
    gate.wait_reached()
    root = line.client.inspect(timeout=15.0).replies[0].payload["in_flight"][0]["id"]
    report = revoke(line, root=root)  # without terminate: what runs goes on
    assert report.obeyed_by == ("alpha@shop",)
    gate.open()
    # then
    members = last.parent.results
    assert all("INC-42" in is_revoked(result) for result in members)
    assert follows.reached("run-0") is None


@POOLS
def test_a_native_revoke_by_stamp_is_durable(line: Shop, pool: tuple[str, ...], tmp_path: Path) -> None:
    worker = line.start(*pool)
    gate = Gate(tmp_path / "gate")
    runs = line.app.send_task("shop.render", (gate.path,), stamped_headers=["deal"], deal="d-1")
    gate.wait_reached()
    plain = Shop(line.broker, line.backend, line.folder, line.options)  # a client without the line
    answers = plain.app.control.revoke_by_stamped_headers({"deal": ["d-1", "d-2"]}, terminate=True)
    assert not answers or "durable" not in str(answers)
    with pytest.raises(TaskRevokedError):
        runs.get(timeout=30)
    eventually(lambda: len(rules(line)) == 2)
    assert {rule.selector.headers for rule in rules(line)} == {(("deal", "d-1"),), (("deal", "d-2"),)}
    assert all(rule.terminate for rule in rules(line)) is (pool[:1] == ("-P",))
    # when it has forgotten all that Celery remembers
    worker.kill()
    late = Gate(tmp_path / "late")
    late.open()
    again = plain.app.send_task("shop.long", (late.path,), stamped_headers=["deal"], deal="d-2")
    other = plain.app.send_task("shop.add", (1, 2), stamped_headers=["deal"], deal="d-3")
    line.start(*pool, name="beta")
    # then
    assert other.get(timeout=30) == 3
    assert "revoked through Celery" in is_revoked(again)
    assert late.reached("run-0") is None
    plain.close()


def test_a_native_revoke_by_stamp_is_stored_by_the_client_while_no_worker_is_up(line: Shop, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    gate.open()
    result = line.app.send_task("shop.long", (gate.path,), stamped_headers=["deal"], deal="d-1")
    line.app.control.revoke_by_stamped_headers({"deal": "d-1"})
    line.app.control.revoke_by_stamped_headers({"deal": "d-1"})
    assert len(rules(line)) == 1
    line.start("-c", "1")
    assert "revoked through Celery" in is_revoked(result)
    # and when it is taken back, while the worker knows the stamp from Celery's broadcast as well
    line.app.control.revoke_by_stamped_headers({"deal": "d-1"})
    # which has come once a later one is answered
    assert line.app.control.broadcast("ping", reply=True, timeout=60, limit=1)
    (rule,) = rules(line)
    with SelectorClient(line.settings) as client:
        assert client.undo_rules(key=rule.key, timeout=15.0).is_told
    again = line.app.send_task("shop.long", (gate.path,), stamped_headers=["deal"], deal="d-1")
    assert again.get(timeout=30) == "once"


def test_celery_s_own_command_line_names_stamps_as_texts(line: Shop) -> None:
    line.start("-c", "1")
    subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tests.celery.shop:app", "control", "revoke_by_stamped_headers", "deal=d-9"],
        env=line.environment, cwd=line.folder, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    eventually(lambda: [rule.selector.headers for rule in rules(line)] == [(("deal", "d-9"),)])
