"""A list that no message is long enough for comes in pages."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from stem_kombu.control.protocol.messages import Inspect
from stem_kombu.control.server.handlers import inspect as handler
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import RevocationCache
from tests.control.fleet import Fleet

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


def held(count: int, *, reason: str | None = None) -> list[Revocation]:
    return [Revocation("stem", f"t{number}", number + 1, NOW, reason=reason) for number in range(count)]


def test_all_that_a_worker_holds_is_listed_however_much_it_is(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "_PAGE", 70)
    alpha, bravo = fleet.start("alpha", "bravo")
    alpha.worker.records, bravo.worker.records = held(200), held(3)
    client = fleet.client(timeout=60.0)

    report = client.inspect(revoked=True, limit=1_000_000)

    lists = {reply.worker: reply.payload["revoked"] for reply in report.replies}
    assert [record["version"] for record in lists["alpha"]] == list(range(200, 0, -1))
    assert len(lists["bravo"]) == 3
    assert [reply.payload["revoked_truncated"] for reply in report.replies] == [False, False]
    assert report.complete

    (cut, _) = client.inspect(revoked=True, limit=150).replies
    assert [record["version"] for record in cut.payload["revoked"]] == list(range(200, 50, -1))
    assert cut.payload["revoked_truncated"] is True
    (few, _) = client.inspect(revoked=True, limit=5).replies
    assert (len(few.payload["revoked"]), few.payload["revoked_truncated"]) == (5, True)


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_long_reasons_make_more_pages_and_no_error(fleet: Fleet) -> None:
    (alpha,) = fleet.start("alpha")
    alpha.worker.records = held(1500, reason="é" * 2000)  # 18 MB of JSON

    (reply,) = fleet.client(timeout=60.0).inspect(revoked=True, limit=1_000_000).replies

    assert reply.error is None
    assert len(reply.payload["revoked"]) == 1500
    assert reply.payload["revoked_truncated"] is False


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
def test_a_worker_that_knows_no_pages_is_not_asked_for_more(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    (alpha,) = fleet.start("alpha")
    alpha.worker.records = held(200)
    page = handler._page

    def as_before(records: list[Revocation], truncated: bool) -> dict[str, object]:
        answer = page(records, truncated)
        del answer["revoked_next"]
        return answer

    monkeypatch.setattr(handler, "_page", as_before)

    (reply,) = fleet.client(timeout=60.0).inspect(revoked=True, limit=100).replies

    assert (len(reply.payload["revoked"]), reply.payload["revoked_truncated"]) == (100, True)


def test_the_cache_gives_what_is_older_than_a_version() -> None:
    cache = RevocationCache("stem")
    cache.apply(held(10), NOW)

    records, more = cache.newest(3, before=6)

    assert ([record.version for record in records], more) == ([5, 4, 3], True)
    assert cache.newest(3, before=1) == ([], False)


def test_the_first_page_is_asked_for_as_ever() -> None:
    """Workers before pages were known are sent nothing that is new to them."""
    from stem_kombu.control.protocol.codec import _encode_order

    assert _encode_order(Inspect(True, 10)) == {"revoked": True, "limit": 10}
