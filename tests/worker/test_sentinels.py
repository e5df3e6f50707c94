"""Broker, backend and revoke store behind real sentinels, and a fail-over in the middle of work."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from stem_kombu.app import Stem
from stem_kombu.context import TaskContext
from stem_kombu.control.client.client import ControlClient
from stem_kombu.errors import BrokerError, StoreError
from stem_kombu.outcome import TaskState
from stem_kombu.settings import Settings
from stem_kombu.worker.worker import Worker
from tests.servers.fixtures import Sentinels
from tests.waiting import eventually

Make = Callable[..., Sentinels]


def application(environ: dict[str, str]) -> tuple[Stem, list[int]]:
    ran: list[int] = []
    app = Stem("watched")
    app.configure(Settings.from_env(environ, sync_interval=0.5, heartbeat_interval=0.5))

    @app.task("work")
    def work(ctx: TaskContext, number: int) -> None:
        threading.Event().wait(0.02)
        ran.append(number)

    return app, ran


def test_g18_a_fail_over_in_the_middle_of_work_loses_nothing_that_was_replicated(sentinels: Make) -> None:
    where = sentinels(password="topsecret")
    app, ran = application({"STEM_BROKER_URL": where.url, "STEM_RESULT_BACKEND_URL": where.url})
    with Worker(app, name="w", inline_slots=2), ControlClient(app) as control:
        assert control.ping().complete
        control.revoke(["never"])
        app.send_many("work", [(number,) for number in range(50)])
        eventually(lambda: len(ran) >= 5)
        # what was acknowledged to us is on the replica as well, so that the loss of the master is no loss of data
        where.master.say("WAIT", "1", "5000")
        where.master.kill()
        sent = iter(range(50, 100))

        def send_another() -> bool:
            try:
                app.send_task("work", (next(sent),))
            except (BrokerError, StoreError):
                return False
            return True

        eventually(send_another, 60, interval=0.5)
        eventually(lambda: set(range(50)) <= set(ran) and any(number >= 50 for number in ran), 60)
        eventually(lambda: control.ping(timeout=2.0).complete, 60, ignoring=(BrokerError, StoreError))
        refused = eventually(
            lambda: app.send_task("work", (7,), task_id="never"), 30, ignoring=(BrokerError, StoreError)
        )
        eventually(lambda: refused.state is TaskState.CANCELLED, 30, ignoring=StoreError)
    app.close()


def spelled(where: Sentinels, spelling: str) -> dict[str, str]:
    hosts = ",".join(f"{one.host}:{one.port}" for one in where.watchers)
    options = {"master_name": "mymaster", "sentinel_kwargs": {"password": "forsentinels"}}
    return {
        "query": {"STEM_BROKER_URL": f"{where.url}&sentinel_password=forsentinels&global_keyprefix=shop:"},
        "celery": {"STEM_BROKER_URL": where.celery_url, "STEM_BROKER_TRANSPORT_OPTIONS": json.dumps(options)},
        "path": {"STEM_BROKER_URL": f"redis+sentinel://{hosts}/mymaster/0?sentinel_password=forsentinels"},
    }[spelling]


def test_every_spelling_reaches_sentinels_that_ask_for_a_password(sentinels: Make) -> None:
    where = sentinels(sentinel_password="forsentinels")
    for spelling in ("query", "celery", "path"):
        app, ran = application(spelled(where, spelling))
        with Worker(app, name=spelling, inline_slots=1), ControlClient(app) as control:
            assert [reply.worker for reply in control.ping().replies] == [spelling]
            app.send_task("work", (1,))
            eventually(lambda ran=ran: ran == [1])
        app.close()


def test_a_wrong_password_or_master_is_told_within_the_deadline_and_without_secrets(sentinels: Make) -> None:
    where = sentinels(sentinel_password="forsentinels")
    for url, told in (
        (where.url + "&sentinel_password=wrongsecret", "No master found|password"),
        (where.url.replace("mymaster", "other") + "&sentinel_password=forsentinels", "No master found for 'other'"),
    ):
        app, _ = application({"STEM_BROKER_URL": url})
        with pytest.raises((BrokerError, StoreError), match=told) as failed, ControlClient(app) as control:
            control.ping()
        assert not any(secret in str(failed.value) for secret in ("wrongsecret", "forsentinels"))
        app.close()


def test_a_guest_on_a_sentinel_broker_needs_no_backend(sentinels: Make) -> None:
    from celery import Celery

    from stem_kombu.celery import settings_of

    where = sentinels(password="topsecret")
    celery = Celery("c", broker=where.celery_url)
    celery.conf.broker_transport_options = {"master_name": "mymaster"}
    given: Any = settings_of(celery)
    app = Stem("guest")
    app.configure(given)
    store = app.open_revoke_store()
    assert store.revision("stem") == 0
    store.close()
    app.close()
