"""Writes ``data/0.1.0``: what Stem 0.1.0 (commit df2004f) leaves in stores, backends, rosters and brokers.

Run once, by an interpreter that has that commit installed, from a checkout of it:

    git worktree add ../old df2004f && cd ../old && .venv/bin/python ../new/tests/compatibility/write_0_1_0.py

The files are never written again: what they hold is the past.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

sys.path[0] = str(Path.cwd())  # that checkout's tests, and its own application below
HERE = Path(__file__).resolve().parent
OUT = HERE / "data" / "0.1.0"

import importlib.util  # noqa: E402

from tests.servers.postgres import PostgresServer  # noqa: E402
from tests.servers.process import Reaper  # noqa: E402
from tests.servers.rabbitmq import RabbitServer  # noqa: E402
from tests.servers.redis import RedisServer  # noqa: E402
from tests.signing.keys import ring, shared  # noqa: E402

_spec = importlib.util.spec_from_file_location("dumps", HERE / "dumps.py")
assert _spec is not None and _spec.loader is not None
dumps = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(dumps)

from stem_kombu import Stem  # noqa: E402
from stem_kombu.backends.heartbeat import Heartbeat  # noqa: E402
from stem_kombu.backends.registry import open_backend  # noqa: E402
from stem_kombu.control.protocol import codec  # noqa: E402
from stem_kombu.control.protocol.messages import Call, Command, Inspect, Ping, Reply, ReplyError, Revoke, Stats  # noqa: E402
from stem_kombu.outcome import TaskError, TaskRecord, TaskState  # noqa: E402
from stem_kombu.revocation import RevocationDraft  # noqa: E402
from stem_kombu.settings import Settings  # noqa: E402
from stem_kombu.signing.proofs import signed_drafts  # noqa: E402
from stem_kombu.stores.registry import open_revoke_store  # noqa: E402
from stem_kombu.transports.names import reply_name  # noqa: E402

WHEN = datetime(2026, 11, 28, 12, 0, 0, 123456, tzinfo=timezone.utc)
TEN_YEARS = 10 * 365 * 86400.0
IDS = ["plain", "with/slash and space", "Ünïcode-Ж-漢字-🎈", "x" * 512, '"quoted"\\back', "{braces}:colon|bar"]

APP = """
import os, time
from stem_kombu import Stem
app = Stem("old")
@app.task("old.add")
def add(ctx, a, b=0): return a + b
@app.task("old.fail", max_retries=0)
def fail(ctx): raise ValueError("no")
@app.task("old.again", max_retries=3, retry_backoff=3600.0)
def again(ctx): raise RuntimeError("later")
@app.task("old.hold")
def hold(ctx):
    open(os.environ["HOLD"], "a").write("x")
    time.sleep(600)
"""


def fill_store(url: str) -> None:
    store = open_revoke_store(url)
    store.save("stem", [RevocationDraft(task_id) for task_id in IDS])
    store.save("stem", [RevocationDraft("told", True, "bad deploy\nsecond line", "ops@host", None)])
    store.save("stem", [RevocationDraft("ends", False, "for ten years", "ops@host", TEN_YEARS)])
    store.save("stem", [RevocationDraft("ended", False, None, None, 0.001)])
    store.save("stem", [RevocationDraft("merged", False, "first", "a"), RevocationDraft("other")])
    store.save("stem", [RevocationDraft("merged", True, "second", "b", 60.0)])
    draft = RevocationDraft("signed", True, "signed", "ops@host")
    store.save("stem", signed_drafts([draft], ring(shared("ops")), namespace="stem", now=store.now()))
    store.save("shop", [RevocationDraft("elsewhere")])
    held = {"stem": [r.to_record() for r in store.load("stem")], "shop": [r.to_record() for r in store.load("shop")]}
    (OUT / f"revocations-{url.partition(':')[0]}.json").write_text(json.dumps(held, indent=1, ensure_ascii=False))
    store.close()


def records() -> list[TaskRecord]:
    times = {"enqueued_at": WHEN, "started_at": WHEN + timedelta(seconds=1)}
    ended = {**times, "ended_at": WHEN + timedelta(seconds=2)}
    result = {"deep": [1, 2.5, None, True, "Ж🎈"], "big": 2**60}
    error = TaskError("ValueError", "no\x00nul", "Traceback …")
    return [
        TaskRecord("t-queued", "old.add", TaskState.QUEUED, 1, "default", enqueued_at=WHEN),
        TaskRecord("t-running", "old.add", TaskState.RUNNING, 2, "default", "old-worker", **times),
        TaskRecord(
            "t-retrying",
            "old.add",
            TaskState.RETRYING,
            1,
            "default",
            "old-worker",
            error=error,
            **ended,
            retry_at=WHEN + timedelta(days=1),
        ),
        TaskRecord("t-succeeded", "old.add", TaskState.SUCCEEDED, 1, "default", "old-worker", result=result, **ended),
        TaskRecord("t-failed", "old.add", TaskState.FAILED, 4, "default", "old-worker", error=error, **ended),
        TaskRecord("t-cancelled", "old.add", TaskState.CANCELLED, 1, "default", "old-worker", **ended),
    ]


def beats() -> list[Heartbeat]:
    plain = Heartbeat(
        "stem",
        "old-worker",
        "b00t",
        "stem-stem-inbox-1",
        TEN_YEARS,
        "host",
        42,
        "0.1.0",
        queues=("default",),
        totals={"received": 3, "succeeded": 2},
        concurrency=2,
        in_flight=1,
        rss_bytes=1000,
        load_avg=0.5,
    )
    bare = Heartbeat("stem", "bare", "b1", "inbox-2", TEN_YEARS, "", 1, "", "draining")
    return [plain, bare]


def fill_backend(url: str) -> None:
    backend = open_backend(url)
    backend.record(records())
    for beat in beats():
        backend.beat(beat)
    backend.close()


def control_messages() -> None:
    """Commands and replies as bytes, plain and sealed."""
    revocations = tuple(open_revoke_store("memory://c").save("stem", [RevocationDraft("t1", True, "why", "who", 60.0)]))
    orders = [Ping(), Inspect(True, 10), Stats(), Revoke(revocations, 0.5), Call("reload-model", {"name": "m"})]
    kept = []
    for keyring in (None, ring(shared("ops"))):
        for order in orders:
            command = Command(
                "cafe",
                "stem",
                order,
                WHEN,
                WHEN + timedelta(seconds=30),
                reply_name("stem", "old-client"),
                ("old-*",),
                0,
                1,
                "ops@host",
            )
            kept.append(
                {
                    "kind": "command",
                    "sealed": keyring is not None,
                    "body": codec.encode_command(command, keyring).decode(),
                }
            )
        for reply in (
            Reply("cafe", "stem", "old-worker", "b00t", {"pid": 1, "state": "running"}),
            Reply("cafe", "stem", "old-worker", "b00t", {}, ReplyError("unknown", "no such command")),
        ):
            kept.append(
                {"kind": "reply", "sealed": keyring is not None, "body": codec.encode_reply(reply, keyring).decode()}
            )
    (OUT / "control.json").write_text(json.dumps(kept, indent=1))


def in_flight(broker: str, folder: Path) -> None:
    """Messages that wait, and what a killed worker held: one that ran, one that waited for its eta, a next attempt."""
    folder.mkdir(exist_ok=True)
    (folder / "oldapp.py").write_text(APP)
    backend = f"sqlite:///{folder / 'state.db'}"
    settings = Settings.from_env({}, broker=broker, backend=backend)
    app = Stem("old", settings=settings)
    app.send_task("old.again", task_id="m-again")
    app.send_task("old.hold", task_id="m-hold")
    app.send_task("old.add", (1,), {"b": 2}, task_id="m-eta", countdown=TEN_YEARS / 10)
    environment = {**os.environ, "HOLD": str(folder / "hold"), "PYTHONPATH": f"{folder}:{Path.cwd()}"}
    worker = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("stem")),
            "worker",
            "start",
            "-A",
            "oldapp:app",
            "--broker",
            broker,
            "--backend",
            backend,
            "--name",
            "old-worker",
            "-c",
            "1",
            "--inline-slots",
            "2",
        ],
        cwd=folder,
        env=environment,
    )
    states = open_backend(backend)
    for _ in range(600):
        again = states.get("m-again")
        if (folder / "hold").exists() and again is not None and again.state is TaskState.RETRYING:
            break
        time.sleep(0.1)
    else:
        raise SystemExit("the old worker did not come so far")
    time.sleep(2)  # the next attempt has come back to this worker, which holds it
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    app.send_task("old.add", (1, 2), task_id="m-waits", headers={"shop": "berlin", "n": 1}, max_retries=2)
    app.send_task(
        "old.add", (1,), {"b": {"deep": ["Ж", None]}}, task_id="m-limits", time_limit=60.0, soft_time_limit=50.0
    )
    app.send_task("old.add", (2, 3), task_id="m-expires", expires=TEN_YEARS)
    signer = Stem(
        "old",
        settings=Settings.from_env(
            {"STEM_SIGNING_KEYS": shared("ops").keys, "STEM_SIGNING_ACTIVE_KEY": "ops", "STEM_SIGNING_TASKS": "sign"},
            broker=broker,
            backend=backend,
        ),
    )
    signer.send_task("old.add", (4, 5), task_id="m-signed")
    signer.close()
    app.close()
    states.close()


def flat_sqlite(path: Path, target: Path) -> None:
    """One file without a journal beside it."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    shutil.copy(path, target)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="write-0.1.0-"))
    reaper = Reaper()
    servers = [RedisServer(reaper), RabbitServer(reaper), PostgresServer(reaper)]
    redis, rabbitmq, postgres = servers
    try:
        for server in servers:
            server.start()
        fill_store(f"file://{OUT / 'revocations.journal'}")
        (OUT / "revocations.journal.lock").unlink(missing_ok=True)
        state = folder / "state.db"
        for url in (f"sqlite:///{state}", redis.new_database(), postgres.new_database()):
            fill_store(url)
            fill_backend(url)
            kind = url.partition(":")[0]
            if kind == "sqlite":
                flat_sqlite(state, OUT / "state.sqlite")
            elif kind == "redis":
                (OUT / "state-redis.json").write_text(json.dumps(dumps.redis_dump(url), indent=1))
            else:
                (OUT / "state-postgres.json").write_text(json.dumps(dumps.postgres_dump(url), indent=1))
        (OUT / "records.json").write_text(
            json.dumps(
                {"tasks": [r.to_record() for r in records()], "beats": [b.to_record() for b in beats()]}, indent=1
            )
        )
        control_messages()
        in_flight(url := redis.new_database(), folder / "redis")
        (OUT / "in-flight-redis.json").write_text(json.dumps(dumps.redis_dump(url), indent=1))
        in_flight(url := rabbitmq.new_vhost(), folder / "amqp")
        time.sleep(3)  # the broker notices the killed connection and has everything back
        (OUT / "in-flight-rabbitmq.json").write_text(json.dumps(dumps.amqp_dump(url, "default"), indent=1))
        in_flight(f"sqlite://{folder / 'broker.db'}", folder / "embedded")
        flat_sqlite(folder / "broker.db", OUT / "broker.sqlite")
    finally:
        for server in servers:
            server.close()
        reaper.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
