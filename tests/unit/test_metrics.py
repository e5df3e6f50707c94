"""What Prometheus reads, by its own parser (G35)."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from stem_kombu.metrics import Payloads, StatsCollector, exposition
from tests.unit.test_measures import filled


def payload(names: int = 3, many: int = 2, **changed: Any) -> dict[str, Any]:
    """What a worker answers to ``stats``."""
    counts, measured = filled(names, many).measured()
    return {
        "version": "0.2.0",
        "state": "running",
        "started_at": "2026-07-01T12:00:00.000000Z",
        "slots": {"inline": {"idle": 16}, "isolate": {"idle": 1, "running": 1}},
        "queues": {f"queue-{number}": {"depth": 4, "consuming": True} for number in range(many)},
        "totals": counts,
        "revoked_count": 7,
        "directives": 12,
        "dropped": {"control": {"unsigned": 3}},
        "measures": {
            **measured,
            "commands": [{"command": "ping", "result": "ok", "count": 5}],
            "children_lost": {"running": 1},
            "loop_lag_s": 0.25,
            "store_up": True,
            "store_age_s": 1.5,
        },
        **changed,
    }


def read(payloads: Payloads, *, labelled: bool = False) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Each sample by its name and labels."""
    _, body = exposition(StatsCollector(lambda: payloads, labelled=labelled))
    samples = [sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples]
    found = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
    assert len(found) == len(samples), "each series once"
    return found


#: Names and labels of operators.md, section 6.
CONTRACT = {
    "stem_build_info": {"version"},
    "stem_worker_state": {"state"},
    "stem_worker_start_time_seconds": set(),
    "stem_worker_slots": {"mode", "state"},
    "stem_worker_loop_lag_seconds": set(),
    "stem_worker_children_lost_total": {"reason"},
    "stem_tasks_received_total": {"queue", "task"},
    "stem_tasks_started_total": {"queue", "task"},
    "stem_tasks_finished_total": {"queue", "task", "outcome"},
    "stem_tasks_cancelled_total": {"how"},
    "stem_task_duration_seconds_bucket": {"queue", "task", "le"},
    "stem_task_duration_seconds_count": {"queue", "task"},
    "stem_task_duration_seconds_sum": {"queue", "task"},
    "stem_task_wait_seconds_bucket": {"queue", "le"},
    "stem_task_wait_seconds_count": {"queue"},
    "stem_task_wait_seconds_sum": {"queue"},
    "stem_queue_depth": {"queue"},
    "stem_queue_consuming": {"queue"},
    "stem_queue_paused": {"queue"},
    "stem_revocations_held": set(),
    "stem_revoke_store_up": set(),
    "stem_revoke_store_sync_age_seconds": set(),
    "stem_control_commands_total": {"command", "result"},
    "stem_control_dropped_total": {"door", "reason"},
    "stem_directive_version": set(),
}


@pytest.mark.parametrize("labelled", [False, True])
def test_names_and_labels_are_those_of_the_contract(labelled: bool) -> None:
    worker = "alpha" if labelled else None
    found: dict[str, set[str]] = {}
    for name, labels in read({worker: payload()}, labelled=labelled):
        found.setdefault(name, {label for label, _ in labels})
    assert found == {name: labels | ({"worker"} if labelled else set()) for name, labels in CONTRACT.items()}


def test_values_are_those_that_the_worker_answered() -> None:
    queue = {"depth": None, "consuming": False, "paused_by": 12}
    found = read({None: payload(1, 1, queues={"mail": queue}, state="draining")})

    def value(name: str, **labels: str) -> float | None:
        return found.get((name, tuple(sorted(labels.items()))))

    assert value("stem_worker_state", state="draining") == 1
    assert value("stem_worker_state", state="running") == 0
    assert value("stem_worker_start_time_seconds") == 1782907200
    assert value("stem_worker_slots", mode="isolate", state="running") == 1
    assert value("stem_queue_depth", queue="mail") is None, "where the broker does not tell it"
    assert (value("stem_queue_consuming", queue="mail"), value("stem_queue_paused", queue="mail")) == (0, 1)
    place = {"queue": "queue-0", "task": "tasks.task_0"}
    assert value("stem_tasks_finished_total", **place, outcome="failed") == 1
    assert value("stem_task_duration_seconds_bucket", **place, le="0.5") == 0
    assert value("stem_task_duration_seconds_bucket", **place, le="1.0") == 3
    assert value("stem_task_duration_seconds_bucket", **place, le="+Inf") == 3
    assert value("stem_tasks_cancelled_total", how="before-start") == 1
    assert value("stem_control_dropped_total", door="control", reason="unsigned") == 3


def test_g35_a_worker_of_many_tasks_has_fewer_than_two_thousand_series() -> None:
    assert len(read({None: payload(300, 1)})) < 2000
    assert len(read({None: payload(300, 20)})) < 2000
    fleet = {f"worker-{number}": payload(300, 1) for number in range(20)}
    assert len(read(fleet, labelled=True)) < 2000 * len(fleet)


def test_open_metrics_is_given_to_what_asks_for_it() -> None:
    kind, body = exposition(StatsCollector(lambda: {None: payload()}), "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert {family.name for family in open_metrics(body.decode())} >= {"stem_tasks_received", "stem_worker_slots"}


def test_a_worker_of_another_version_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    older = {name: value for name, value in payload().items() if name not in ("measures", "slots", "directives")}
    strange = payload(queues=["mail"])
    with caplog.at_level(logging.WARNING):
        found = read({"new": payload(), "old": older, "strange": strange, "mute": {}}, labelled=True)
    of = {worker: {name for name, labels in found if ("worker", worker) in labels} for worker in ("new", "old")}
    assert "stem_queue_depth" in of["old"]
    assert "stem_tasks_received_total" not in of["old"]
    assert "stem_tasks_received_total" in of["new"]
    assert found["stem_worker_state", (("state", "silent"), ("worker", "mute"))] == 1
    assert found["stem_worker_state", (("state", "silent"), ("worker", "new"))] == 0
    assert "metrics of worker strange can't be read" in caplog.text
