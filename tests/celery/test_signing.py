"""Keys in a fleet with Celery: what nobody signs (Celery's own remote control) changes nothing, in its workers and in ours."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.control.client.client import ControlClient
from stem_kombu.revocation import RevocationDraft
from stem_kombu.settings import SigningSettings
from stem_kombu.signing.keyring import Untrusted
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.cli.program import Program
from tests.signing.keys import SCOPES, hmac_keys
from tests.waiting import eventually


def variables(active: str, **more: str) -> dict[str, str]:
    return {
        "STEM_SIGNING_KEYS": hmac_keys("fleet", "ops", "viewer"),
        "STEM_SIGNING_ACTIVE_KEY": active,
        "STEM_SIGNING_KEY_SCOPES": SCOPES,
        **more,
    }


def client(shop: Shop, active: str) -> ControlClient:
    given = {name.removeprefix("STEM_SIGNING_").lower(): value for name, value in variables(active).items()}
    return ControlClient(replace(shop.settings, signing=SigningSettings(**given)))


def told(replies: list[dict[str, Any]]) -> str:
    (reply,) = replies
    (answer,) = reply.values()
    return str(answer.get("error", answer))


def test_g12_a_celery_worker_with_keys_obeys_signed_commands_only(
    shop_on: Callable[[str], Shop], tmp_path: Path
) -> None:
    shop = shop_on("redis")
    worker = shop.start("-c", "2", **variables("fleet", STEM_SIGNING_TASKS="sign"))
    gate = Gate(tmp_path / "gate")
    result = shop.send("shop.render", gate.path)
    gate.wait_reached()

    # Celery's remote control: refused, whatever it would change
    control = shop.app.control
    asked = {"reply": True, "timeout": 10, "limit": 1}
    assert "refused" in told(control.revoke(result.id, terminate=True, **asked))
    assert "refused" in told(control.broadcast("shutdown", **asked))
    assert "refused" in told(control.pool_grow(1, **asked))
    assert "refused" in told(control.cancel_consumer("celery", **asked))
    assert control.ping(timeout=10, limit=1) == [{"alpha@shop": {"ok": "pong"}}]
    # what it says of revoked tasks to a worker that greets it is hearsay
    control.inspect(timeout=10, limit=1)._request("hello", from_node="eve@there", revoked={"hearsay": 1.0})
    assert shop.send("shop.add", 1, 2, task_id="hearsay").get(timeout=30) == 3
    # an unsigned command of ours, and a record that nobody signed
    assert [reply.error.code for reply in shop.client.ping().replies if reply.error] == ["refused"]
    with pytest.raises(Untrusted):
        shop.client.revoke([result.id], terminate=True)
    with closing(open_revoke_store(shop.backend)) as store:
        store.save("stem", [RevocationDraft(result.id, True)])
    with client(shop, "ops") as ops:  # which the worker tells of its store before it answers
        eventually(lambda: ops.stats().replies[0].payload["dropped"]["revocations"] == {"unsigned": 1}, 30)
    assert worker.process.poll() is None
    assert gate.reached("finally") is None

    with client(shop, "viewer") as viewer:
        dropped = viewer.stats().replies[0].payload["dropped"]
        assert dropped["celery"] == {"unsigned": 4}
        assert dropped["control"]["unsigned"] == 1
    # celery -A app stem … signs with the same variables
    shop_environment = {**shop.environment, **variables("ops")}
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tests.celery.shop:app", "stem", "worker", "revoke", "-t", result.id,
         "--terminate", "--json"],
        env=shop_environment, cwd=shop.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["replies"][0]["payload"]["terminated"] == [result.id]
    # a task that Stem signed is one of Celery's messages
    program = Program(
        tmp_path, {"STEM_BROKER_URL": shop.broker, "STEM_RESULT_BACKEND_URL": shop.backend, **variables("ops")}
    )
    sent = program.ok("task", "send", "shop.add", "--args", "[20, 22]", "--queue", "celery", "--signing-tasks", "sign")
    assert shop.app.AsyncResult(sent.out.strip()).get(timeout=30) == 42


def test_a_celery_worker_does_not_look_as_if_it_required_signed_tasks(shop_on: Callable[[str], Shop]) -> None:
    shop = shop_on("redis")

    worker = shop.begin("-c", "1", **variables("fleet", STEM_SIGNING_TASKS="require"))

    assert worker.process.wait(60) == 2
    assert "STEM_SIGNING_TASKS" in worker.log


def test_g12_what_celerys_tools_say_to_a_stem_worker_with_keys_changes_nothing(
    shop_on: Callable[[str], Shop], tmp_path: Path
) -> None:
    shop = shop_on("redis")
    places = {"STEM_BROKER_URL": shop.broker, "STEM_RESULT_BACKEND_URL": shop.backend}
    program = Program(tmp_path, {**places, **variables("fleet")})
    try:
        program.start_worker("--name", "stem-1@here", "-c", "1", "-Q", "stem")
        gate = Gate(tmp_path / "gate")
        task = program.send("shop.render", "--queue", "stem", gate=gate.path)
        gate.wait_reached()
        inspect = shop.app.control.inspect(timeout=10, limit=1)

        refused = shop.app.control.revoke(task, terminate=True, reply=True, timeout=10, limit=1)

        assert "refused" in told(refused)
        assert inspect.revoked() == {"stem-1@here": []}
        assert [found["args"] for found in inspect.active()["stem-1@here"]] == ["(***)"]
        stats = program.ok("worker", "stats", "--json", env=variables("viewer")).json
        assert stats["replies"][0]["payload"]["dropped"]["celery"] == {"unsigned": 1}
        eventually(lambda: gate.reached() is not None)
        assert gate.reached("finally") is None
    finally:
        program.close()
