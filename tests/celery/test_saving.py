"""A revoke store that does not answer holds up neither Celery's event loop nor a program that revokes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from stem_kombu.celery import install, saving
from stem_kombu.celery.saving import Saver
from stem_kombu.errors import ConfigurationError, StoreUnavailable
from stem_kombu.revocation import RevocationDraft
from stem_kombu.signing.keyring import Untrusted
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.servers.redis import RedisServer
from tests.signing.keys import hmac_keys
from tests.waiting import eventually


class Store:
    """Takes drafts while it is ``open``, and hangs or fails otherwise."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.failure: Exception | None = None
        self.held: list[str] = []
        self.calls = 0

    def save(self, drafts: Sequence[RevocationDraft]) -> None:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        assert self.open.wait(30)
        self.held += [draft.task_id for draft in drafts]


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.failure = None
    store.open.set()


def drafts(*ids: str) -> list[RevocationDraft]:
    return [RevocationDraft(one) for one in ids]


def test_what_a_store_takes_at_once_is_durable(store: Store) -> None:
    store.open.set()
    saver = Saver(store.save, patience=30.0)

    assert saver.save(drafts("a", "b")) is None
    assert saver.save([]) is None
    assert store.held == ["a", "b"]


def test_a_store_that_hangs_is_waited_for_once_and_takes_all_of_it_later(store: Store) -> None:
    saver = Saver(store.save, patience=0.05)
    first = saver.save(drafts("a"))
    patient = Saver(store.save, patience=30.0)
    patient._trouble = first  # the wait is over: no caller after the first one waits, whatever its patience

    assert first is not None and "has not answered" in first
    assert patient.save(drafts("b")) == first
    assert [saver.save(drafts(f"c{n}")) for n in range(3)] == [first] * 3
    store.open.set()
    eventually(lambda: sorted(store.held) == ["a", "b", "c0", "c1", "c2"])
    assert saver.save(drafts("d")) is None or store.held[-1] == "d"


def test_a_store_that_fails_is_tried_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.open.set()
    store.failure = StoreUnavailable("it is away")
    saver = Saver(store.save, patience=0.5)

    assert "away" in str(saver.save(drafts("a")))
    store.failure = None

    eventually(lambda: store.held == ["a"])
    eventually(lambda: "are stored now" in caplog.text)
    assert store.calls >= 2


@pytest.mark.parametrize("failure", [Untrusted("not-accepted", "no key"), ConfigurationError("no such place")])
def test_what_is_refused_for_good_is_raised_and_not_tried_again(store: Store, failure: Exception) -> None:
    store.failure = failure
    saver = Saver(store.save, patience=30.0)

    with pytest.raises(type(failure)):
        saver.save(drafts("a"))
    store.failure = None
    store.open.set()
    assert saver.save(drafts("b")) is None
    assert store.held == ["b"]


def test_no_more_wait_than_there_is_room_for_and_what_is_lost_at_the_end_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saving, "MOST_WAITING", 3)
    saver = Saver(store.save, patience=0.01)
    assert "has not answered" in str(saver.save(drafts("a", "b")))

    assert "not stored" in str(saver.save(drafts("c", "d")))
    saver.close(0.01)

    assert "were not stored: 2" in caplog.text


# -- in a Celery worker -------------------------------------------------------------------------------------------------


def test_g16_a_store_that_hangs_stops_neither_celerys_dispatch_nor_its_clients(
    shop_on: Callable[[str], Shop], start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    shop, server = shop_on("redis"), start_redis()
    place = server.new_database()
    shop.start("-c", "1", STEM_REVOKE_STORE_URL=place)
    control = install(shop.app, revoke_store=place).control
    gate = Gate(tmp_path / "after")
    server.pause()
    try:
        answers = [control.revoke(f"hung-{n}", reply=True, timeout=20, limit=1) for n in range(6)]
        after = shop.send("shop.deaf", gate.path)
        gate.wait_reached(timeout=20)
        gate.open()
    finally:
        server.resume()

    told = [answer["alpha@shop"] for (answer,) in answers]
    assert [one["durable"] for one in told] == [False] * 6
    assert all("not durable yet" in one["ok"] for one in told)
    after.get(timeout=60)
    with closing(open_revoke_store(place)) as opened:
        eventually(lambda: [opened.get("stem", f"hung-{n}") for n in range(6)].count(None) == 0, 60)
    ((answer,),) = (control.revoke("soon", reply=True, timeout=20, limit=1),)
    eventually(
        lambda: control.revoke("soon", reply=True, timeout=20, limit=1)[0]["alpha@shop"].get("durable", True), 60
    )
    assert "ok" in answer["alpha@shop"]


def test_g4_celerys_own_terminate_is_stored(shop: Shop) -> None:
    """``celery control terminate SIGTERM ID``, which Celery carries out without asking its ``revoke`` by name."""
    shop.start("-c", "1")

    (answer,) = shop.app.control.broadcast(
        "terminate", arguments={"signal": "SIGTERM", "task_id": ["gone"]}, reply=True, timeout=20, limit=1
    )

    assert "durable" not in answer["alpha@shop"], "a stored revoke is answered as Celery answers it"
    with closing(open_revoke_store(shop.backend)) as opened:
        assert opened.get("stem", "gone") is not None


def test_g1_an_application_without_a_key_stores_nothing_in_a_fleet_with_keys(shop: Shop) -> None:
    """Neither by Celery's client, nor through a worker that has no keys."""
    keys = {"STEM_SIGNING_KEYS": hmac_keys("fleet"), "STEM_SIGNING_ACTIVE_KEY": "fleet"}
    client = install(shop.app, revoke_store=shop.backend)
    shop.start("-c", "1", **keys)
    with pytest.raises(Untrusted, match="this fleet has keys"):
        client.control.revoke("unsigned", reply=True, timeout=10, limit=1)

    shop.start("-c", "1", name="keyless")
    (answer,) = shop.app.control.broadcast(
        "revoke", arguments={"task_id": "unsigned"}, destination=["keyless@shop"], reply=True, timeout=20, limit=1
    )
    assert answer["keyless@shop"]["durable"] is False
    assert "this fleet has keys" in answer["keyless@shop"]["ok"]
    with closing(open_revoke_store(shop.backend)) as opened:
        assert opened.get("stem", "unsigned") is None
