"""``celery -A app stem …`` is the ``stem`` command for the application's own fleet."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.waiting import eventually


def run(shop: Shop, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tests.celery.shop:app", "stem", *arguments],
        env=shop.environment, cwd=shop.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_broker_and_backend_are_those_of_the_application(shop: Shop, tmp_path: Path) -> None:
    shop.start("-c", "1")
    done = run(shop, "worker", "ping", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["expected"] == ["alpha@shop"]
    for command in ("inspect", "stats", "status"):
        done = run(shop, "worker", command)
        assert done.returncode == 0, done.stderr
        assert "alpha@shop" in done.stdout
    gate = Gate(tmp_path / "gate")
    result = shop.send("shop.render", gate.path)
    gate.wait_reached()
    done = run(shop, "worker", "revoke", "-t", result.id, "--terminate", "--reason", "INC-42")
    assert done.returncode == 0, done.stderr
    assert f"terminated: {result.id} on alpha@shop" in done.stdout


def test_g34_a_probe_of_the_applications_worker_needs_no_broker(shop: Shop) -> None:
    worker = shop.start("-c", "1", name="probed")
    shop.broker = shop.backend = "redis://127.0.0.1:1/0"
    probed = partial(run, shop, "healthcheck", "--name", worker.name)
    assert eventually(lambda: (done := probed("--json")).returncode == 0 and json.loads(done.stdout), 30)["ready"]
    shop.workers.remove(worker)
    worker.terminate()
    done = probed()
    assert done.returncode not in (0, 2), done.stdout
    assert "probed@shop" in done.stdout + done.stderr


def test_help_and_exit_codes_are_those_of_stem(shop: Shop) -> None:
    done = run(shop, "worker", "--help")
    assert done.returncode == 0
    assert "Run, see, stop and steer workers" in done.stdout
    assert run(shop, "worker", "ping").returncode == 69
    assert run(shop, "worker", "pong").returncode == 2
