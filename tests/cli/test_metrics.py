"""``/metrics`` of a worker and ``stem metrics`` of a fleet, as Prometheus reads them (G35)."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stem_kombu.testing.ports import free_port
from tests.cli.program import Program
from tests.cli.test_metrics_examples import expressions, named
from tests.waiting import eventually

Samples = list[tuple[str, dict[str, str], float]]


def parsed(text: str) -> Samples:
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def scraped(url: str) -> Samples:
    with urlopen(Request(url, headers={"Accept": "text/plain"}), timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return parsed(answer.read().decode())


def summed(samples: Samples, name: str, **labels: str) -> float:
    return sum(
        value
        for found, held, value in samples
        if found == name and all(held.get(label) == text for label, text in labels.items())
    )


def agrees(samples: Samples, totals: dict[str, int], **who: str) -> bool:
    """Whether the counters equal the totals of ``stats``."""
    finished = {
        outcome: summed(samples, "stem_tasks_finished_total", outcome=outcome, **who)
        for outcome in ("succeeded", "failed", "retried", "cancelled")
    }
    begun = {name: summed(samples, f"stem_tasks_{name}_total", **who) for name in ("received", "started")}
    cancelled = summed(samples, "stem_tasks_cancelled_total", **who)
    return {**finished, **begun} == {name: totals[name] for name in (*finished, *begun)} and (
        cancelled == totals["cancelled"]
    )


@pytest.mark.parametrize("broker", ["embedded", "redis", "amqp"])
def test_g35_counters_of_a_worker_and_of_the_fleet_equal_its_stats(
    program_on: Callable[[str], Program], broker: str
) -> None:
    program, port = program_on(broker), free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    program.start_worker("--name", "alpha", "-c", "1", "--health-listen", f"127.0.0.1:{port}")
    program.start_worker("--name", "bravo", "-c", "1", "-Q", "elsewhere")
    program.ended(program.send("shop.add", a=1))
    program.ended(program.send("shop.fails"))
    program.ok("worker", "revoke", "-t", "never", "--reason", "INC-42")
    program.ended(program.send("shop.add", "--id", "never", a=1))

    def stats() -> dict[str, Any]:
        (reply,) = program.ok("worker", "stats", "-w", "alpha", "--json").json["replies"]
        return dict(reply["payload"])

    totals = stats()["totals"]
    assert (totals["succeeded"], totals["cancelled"]) == (1, 1)
    page = scraped(url)
    assert agrees(page, totals), (page, totals)
    assert summed(page, "stem_tasks_finished_total", queue="default", task="shop.add", outcome="succeeded") == 1
    assert summed(page, "stem_tasks_cancelled_total", how="before-start") == 1
    assert summed(page, "stem_task_duration_seconds_count") == totals["started"]
    assert summed(page, "stem_task_wait_seconds_count", queue="default") == totals["started"]
    assert summed(page, "stem_control_commands_total", command="stats", result="ok") >= 1
    assert summed(page, "stem_revoke_store_up") == summed(page, "stem_queue_consuming", queue="default") == 1
    assert summed(page, "stem_queue_depth", queue="default") == 0
    assert summed(page, "stem_worker_slots", mode="isolate") == 1
    # What the dashboard and the alerts ask for is there; two series come with the first event of theirs.
    asked = {name for _, expression in expressions() for name in named(expression)}
    rare = {"stem_worker_children_lost_total", "stem_control_dropped_total"}
    assert asked - {name for name, _, _ in page} <= rare
    fleet = parsed(program.ok("metrics").out)
    assert {labels["worker"] for _, labels, _ in fleet} == {"alpha", "bravo"}
    assert agrees(fleet, totals, worker="alpha"), (fleet, totals)


def test_g35_what_left_is_gone_at_the_next_scrape_and_what_is_silent_is_said(
    program_on: Callable[[str], Program],
) -> None:
    program, port = program_on("redis"), free_port()
    program.variables["STEM_CONTROL_TIMEOUT"] = "3s"
    program.start_worker("--name", "alpha", "-c", "1")
    bravo = program.start_worker("--name", "bravo", "-c", "1")
    serving = program.popen("metrics", "--listen", f"127.0.0.1:{port}")
    url = f"http://127.0.0.1:{port}/metrics"
    try:
        page = eventually(lambda: scraped(url), 60, ignoring=OSError)
        assert {labels["worker"] for _, labels, _ in page} == {"alpha", "bravo"}
        with bravo.paused():
            page = scraped(url)
            assert summed(page, "stem_worker_state", worker="bravo", state="silent") == 1
            assert summed(page, "stem_worker_state", worker="alpha", state="silent") == 0
        assert bravo.terminate() == 0
        assert {labels["worker"] for _, labels, _ in scraped(url)} == {"alpha"}
    finally:
        serving.send_signal(signal.SIGINT)
        _, said = serving.communicate(timeout=60)
    assert serving.returncode == 130
    assert f"http://127.0.0.1:{port}/metrics" in said


def test_nobody_answers(program_on: Callable[[str], Program]) -> None:
    done = program_on("embedded").run("metrics", "--timeout", "300ms")
    assert (done.code, done.out) == (69, "")
    assert "no live worker" in done.err


def test_without_the_extra_the_worker_runs_and_says_what_is_missing(
    program_on: Callable[[str], Program], tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "prometheus_client.py").write_text("raise ImportError('not here')\n")
    program, port = program_on("embedded"), free_port()
    program.variables["PYTHONPATH"] = str(hidden)
    program.start_worker("--name", "alpha", "-c", "1", "--health-listen", f"127.0.0.1:{port}")
    with pytest.raises(HTTPError) as refused:
        scraped(f"http://127.0.0.1:{port}/metrics")
    assert refused.value.code == 501
    assert b"pip install 'stem-kombu[metrics]'" in refused.value.read()
    refused.value.close()
    done = program.run("metrics")
    assert (done.code, "stem-kombu[metrics]" in done.err) == (2, True), done


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--listen", "0.0.0.0:9808"), r"--listen: 0\.0\.0\.0 can be reached .*--public"),
        (("--listen", "9808"), r"--listen: '9808' is not HOST:PORT"),
    ],
)
def test_flags_that_mean_nothing_are_wrong_usage(stem: Program, given: tuple[str, ...], said: str) -> None:
    done = stem.run("metrics", *given)
    assert done.code == 2
    assert re.search(said, done.err, re.DOTALL)
