"""An older replica is promoted among revokes: what of the acknowledged revocations the fleet has lost."""

from __future__ import annotations

import random
from typing import Any

import redis

from stem_kombu.control.client.client import ControlClient
from stem_kombu.errors import StoreError
from stem_kombu.settings import Settings
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.testing.proxy import TcpProxy
from tests.faults.notes import now
from tests.faults.report import Target
from tests.servers.process import Reaper
from tests.servers.redis import RedisServer
from tests.waiting import eventually

#: Seconds between two looks of a worker at the store.
INTERVAL = 5.0
WORKERS = ("alpha", "bravo", "charly")


class Pair:
    """A primary and its replica behind one address; :meth:`promote` makes the replica, as old as it is, the primary."""

    def __init__(self) -> None:
        self._reaper = Reaper()
        self._servers = [RedisServer(self._reaper), RedisServer(self._reaper)]
        for server in self._servers:
            server.start()
        self._proxy = TcpProxy("127.0.0.1", self._servers[0].port)
        self._proxy.start()
        self.url = f"redis://127.0.0.1:{self._proxy.port}/0"

    def follow(self, patience: float) -> None:
        """Return once the replica holds what the primary holds."""
        primary, replica = self._servers
        with redis.Redis(port=replica.port) as client:
            client.replicaof("127.0.0.1", str(primary.port))
            eventually(lambda: client.info("replication")["master_link_status"] == "up", patience)
        with redis.Redis(port=primary.port) as client:
            assert client.wait(1, int(patience * 1000)) == 1

    def lag(self) -> None:
        """From here on the replica gets nothing more."""
        with redis.Redis(port=self._servers[1].port) as client:
            client.replicaof("no", "one")

    def promote(self) -> None:
        self._servers.reverse()
        self._proxy.stop()
        self._proxy._target = ("127.0.0.1", self._servers[0].port)
        self._proxy.start()

    def close(self) -> None:
        self._proxy.stop()
        for server in self._servers:
            server.close()
        self._reaper.close()


def promoted(here: Any, trials: int, patience: float) -> tuple[Target, dict[str, Any]]:
    """Promotions after which, one sync interval later, a live worker did not hold what another had applied before."""
    dice, pair = random.Random(trials), Pair()
    here.urls["revoke_store"] = pair.url
    here.app.configure(Settings.from_env({"STEM_CELERY_EVENTS": "off"}, **here.urls))
    applied: set[str] = set()
    bad, late, acknowledged, longest = 0, 0, 0, 0.0
    try:
        for name in WORKERS:
            here.start_worker(name, sync_interval=INTERVAL)
        with ControlClient(here.app) as control:
            for trial in range(trials):
                pair.follow(patience)
                ids = [f"{trial}-{number}" for number in range(dice.randint(1, 8))]
                applied |= _applied(control, ids, None, patience)
                pair.lag()
                ids = [f"{trial}-lost-{number}" for number in range(dice.randint(1, 8))]
                # Sometimes to one worker alone, and sometimes the others have read the store before it is gone.
                applied |= _applied(control, ids, dice.choice([None, ["alpha"], ["bravo"]]), patience)
                if dice.random() < 0.4:
                    _held_by_all(control, applied, patience)
                acknowledged += len(ids)
                pair.promote()
                began = now()
                if dice.random() < 0.6:  # among revokes: one write hides that the versions went back
                    applied |= _applied(control, [f"{trial}-after"], None, patience)
                eventually(lambda began=began: now() - began >= INTERVAL, patience)  # type: ignore[misc]
                if not _all_hold(control, applied, patience):
                    late += 1
                    _held_by_all(control, applied, patience)
                    longest = max(longest, now() - began)
                    print(f"trial {trial}: late, {now() - began:.1f} s", flush=True)
                store = open_revoke_store(pair.url)
                bad += not applied <= {record.task_id for record in store.load(here.app.settings.namespace)}
                store.close()
    finally:
        pair.close()
    facts = {
        "Promotions of an older replica": trials,
        "Revocations that only the lost primary had": acknowledged,
        "Longest time until every worker held them, s": round(max(longest, INTERVAL), 1),
    }
    what = "promotions of an older replica after which a worker did not hold what another had, one sync interval later"
    return Target(what, bad + late, trials, 100, "new: no peer keeps revocations in a store"), facts


def _applied(control: ControlClient, ids: list[str], workers: list[str] | None, patience: float) -> set[str]:
    """Those of the revocations that were acknowledged and that a worker has applied."""
    deadline = now() + patience
    while True:
        try:
            report = control.revoke(ids, workers=workers, timeout=patience)
            break
        except StoreError:  # the connection went with the primary
            assert now() < deadline
    assert {record.task_id for record in report.stored} == set(ids)
    return {task_id for reply in report.replies for task_id in reply.payload.get("applied", ())}


def _all_hold(control: ControlClient, ids: set[str], patience: float) -> bool:
    report = control.inspect(revoked=True, limit=10**7, timeout=patience)
    held = {
        reply.worker: {record["task_id"] for record in reply.payload.get("revoked", ())} for reply in report.replies
    }
    return held.keys() == set(WORKERS) and all(ids <= found for found in held.values())


def _held_by_all(control: ControlClient, ids: set[str], patience: float) -> None:
    eventually(lambda: _all_hold(control, ids, patience), patience, "a worker never held them")
