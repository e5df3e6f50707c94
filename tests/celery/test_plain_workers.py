"""Celery workers without Stem are listed, and a revoke says that they will not remember it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from tests.celery.conftest import ROOT, Shop
from tests.celery.test_command import run


def stem(shop: Shop, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program by itself, outside of the Celery application."""
    places = {"STEM_BROKER_URL": shop.broker, "STEM_RESULT_BACKEND_URL": shop.backend, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "stem_kombu_cli", *arguments],
        env={**os.environ, **places}, cwd=shop.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_where_no_worker_has_the_line_they_are_listed_and_revoke_in_memory(shop: Shop) -> None:
    shop.start("-c", "1", SHOP_INSTALL="not at all")
    for command in ("ping", "inspect", "status"):
        done = stem(shop, "worker", command, "--timeout", "2s")
        assert "alpha@shop  plain celery" in done.stdout, done.stderr
        assert document(stem(shop, "worker", command, "--timeout", "2s", "--json"))["plain_celery"] == ["alpha@shop"]
    done = stem(shop, "worker", "revoke", "-t", "early", "--timeout", "2s")
    assert done.returncode == 69
    assert "in the memory of 1 Celery worker without Stem only" in done.stderr
    assert "alpha@shop" in done.stderr
    with pytest.raises(TaskRevokedError):
        shop.send("shop.add", 1, task_id="early").get(timeout=30)


def test_in_a_fleet_of_both_kinds_each_is_shown_as_what_it_is(shop: Shop) -> None:
    shop.start("-c", "1")
    shop.start("-c", "1", name="bravo", SHOP_INSTALL="not at all")
    done = document(run(shop, "worker", "ping", "--json"))
    assert (done["expected"], done["plain_celery"]) == (["alpha@shop"], ["bravo@shop"])
    # an application's own fleet is asked; elsewhere only on request, as answers of Celery take their time
    assert "plain_celery" not in document(stem(shop, "worker", "ping", "--json"))
    assert document(stem(shop, "worker", "ping", "--celery", "--json"))["plain_celery"] == ["bravo@shop"]
    assert "plain_celery" not in document(run(shop, "worker", "ping", "-w", "alpha@shop", "--json"))
    done = document(run(shop, "worker", "revoke", "-t", "early", "--json"))
    assert done["plain_celery"] == ["bravo@shop"]
    for _ in range(2):  # whichever of them gets it
        with pytest.raises(TaskRevokedError):
            shop.send("shop.add", 1, task_id="early").get(timeout=30)


def test_nothing_is_left_at_a_broker_that_celery_never_saw(redis_url: str, shop_on: Any) -> None:
    import redis

    shop = shop_on("redis")
    with redis.Redis.from_url(redis_url) as client:
        before = set(client.scan_iter("*"))
        assert stem(shop, "worker", "ping", "--timeout", "1s").returncode == 69
        assert {key for key in set(client.scan_iter("*")) - before if b"pidbox" in key or b"kombu" in key} == set()
