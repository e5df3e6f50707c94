"""``stem worker rate-limit``: how many tasks of a queue, or of a name, may start in how much time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from tests.cli.program import Program
from tests.cli.shop_fleet import Shop
from tests.waiting import eventually

KINDS = pytest.mark.parametrize("kind", ["embedded", "redis", "amqp"])
#: Longest wait for tasks, in seconds.
PATIENCE = 150.0


def limits(shop: Shop) -> dict[str, Any]:
    """Of each worker its rate limits by subject."""
    replies = shop.program.ok("worker", "stats", "--json").json["replies"]
    return {reply["worker"]: reply["payload"]["settings"].get("rate-limit", {}) for reply in replies}


def starts_of(shop: Shop, ids: list[str]) -> list[float]:
    """When the tasks started, in order; seconds."""
    records = [record for one in ids if (record := shop.backend.get(one)) is not None]
    return sorted(datetime.timestamp(one.started_at) for one in records if one.started_at is not None)


@KINDS
def test_g25_workers_share_the_limit_of_a_queue_and_other_queues_go_on(
    kind: str, shop_on: Callable[[str], Shop]
) -> None:
    shop = shop_on(kind)
    shop.worker("alpha")
    shop.worker("bravo")
    done = shop.program.ok("worker", "rate-limit", "-q", "mail", "10/s", "--yes", "--reason", "INC-42", "--wait")
    assert "limited: queue mail on workers * to 10/s, version" in done.out
    eventually(lambda: [one["queue:mail"]["value"]["share_per_s"] for one in limits(shop).values()] == [5.0, 5.0], 30)
    setting = limits(shop)["alpha"]["queue:mail"]
    assert (setting["source"], setting["reason"], setting["value"]["workers"]) == ("directive", "INC-42", 2)

    limited, free = shop.send("shop.note", 40), shop.send("shop.note", 40, queue="other")
    eventually(lambda: shop.ended(free), PATIENCE)
    eventually(lambda: shop.ended(limited), PATIENCE)
    found = starts_of(shop, limited)
    # 40 slots of a tenth of a second; of those that begin, a second's worth may be made up for.
    assert found[-1] - found[0] >= 2.8
    assert max(sum(first <= at < first + 1 for at in found) for first in found) <= 21
    assert all(count == 1 for count in shop.started().values())

    (one,) = shop.program.ok("directives", "list", "--kind", "rate-limit", "--json").json["directives"]
    assert (one["subject"], one["value"]) == ("queue:mail", {"tasks": 10, "seconds": 1, "each": False})
    done = shop.program.ok("worker", "rate-limit", "-q", "mail", "default", "--yes", "--json")
    assert all(one["cleared"] for one in done.json["stored"])
    assert limits(shop) == {"alpha": {}, "bravo": {}}


@KINDS
def test_g25_a_slow_limit_lets_one_task_start_and_holds_no_other_queue_up(
    kind: str, shop_on: Callable[[str], Shop]
) -> None:
    shop = shop_on(kind)
    shop.worker("alpha")
    shop.program.ok("worker", "rate-limit", "--name", "shop.note", "2/h", "--yes", "--wait")
    limited = shop.send("shop.note", 50)
    free = shop.send("shop.mark", 20)  # in the same queue, behind them
    eventually(lambda: shop.ended(free), PATIENCE)
    eventually(lambda: len(starts_of(shop, limited)) == 1, PATIENCE)
    stats = shop.program.ok("worker", "stats")
    assert "task shop.note at 2/h" in stats.out
    # Revoked while it waits; a pause gives back what waits, and no attempt is counted.
    waiting = [one for one in limited if shop.backend.get(one) is None or shop.backend.get(one).started_at is None]  # type: ignore[union-attr]
    shop.program.ok("worker", "revoke", "--task", waiting[0])
    eventually(lambda: shop.ended(waiting[:1]), PATIENCE)
    shop.program.ok("queue", "pause", "mail", "--yes", "--wait")
    eventually(lambda: limits(shop)["alpha"]["task:shop.note"]["value"]["held"] == 0, PATIENCE)
    shop.program.ok("queue", "resume", "mail", "--yes", "--wait")
    assert len(starts_of(shop, limited)) == 1
    shop.program.ok("directives", "clear", "--kind", "rate-limit", "--yes")
    eventually(lambda: shop.ended(limited), PATIENCE)
    assert all(found == 1 and attempt == 1 for (_, attempt), found in shop.started().items())


@KINDS
def test_g25_of_a_limit_below_one_a_worker_and_minute_one_worker_is_elected(
    kind: str, shop_on: Callable[[str], Shop]
) -> None:
    shop = shop_on(kind)
    for name in ("alpha", "bravo"):
        shop.worker(name)
    shop.program.ok("worker", "rate-limit", "-q", "mail", "1/m", "--yes", "--wait")

    def shares() -> list[Any]:
        return [one["queue:mail"]["value"]["share_per_s"] for _, one in sorted(limits(shop).items())]

    eventually(lambda: shares() == [pytest.approx(1 / 60, abs=1e-5), 0.0], 30)
    limited = shop.send("shop.note", 10)
    eventually(lambda: len(starts_of(shop, limited)) == 1, PATIENCE)
    (record,) = [one for task in limited if (one := shop.backend.get(task)) is not None and one.started_at is not None]
    assert record.worker == "alpha"
    # The elected one goes: the other takes over.
    alpha = shop.program.workers[0]
    alpha.process.terminate()
    alpha.wait_code()
    eventually(lambda: shares() == [pytest.approx(1 / 60, abs=1e-5)], 30)
    assert len(starts_of(shop, limited)) <= 2
    shop.program.ok("worker", "rate-limit", "-q", "mail", "default", "--yes")
    eventually(lambda: shop.ended(limited), PATIENCE)
    assert all(found == 1 for found in shop.started().values())


def test_each_worker_has_the_rate_and_a_worker_that_starts_later_obeys(shop_on: Callable[[str], Shop]) -> None:
    shop = shop_on("embedded")
    shop.program.ok("worker", "rate-limit", "--name", "shop.*", "100/m", "--each", "--yes", "--for", "1h")
    shop.worker("alpha")
    found = limits(shop)["alpha"]
    assert found["task:shop.add"]["value"] == {
        "rate": "100/m", "each": True, "workers": 1, "share_per_s": pytest.approx(100 / 60, abs=1e-5), "held": 0,
    }  # fmt: skip
    # One worker has its own.
    done = shop.program.ok("worker", "rate-limit", "--name", "shop.add", "5/s", "-w", "alpha")
    assert "5/s" in done.out
    assert limits(shop)["alpha"]["task:shop.add"]["value"]["rate"] == "5/s"


def test_a_dry_run_stores_nothing(embedded: Program) -> None:
    done = embedded.ok("worker", "rate-limit", "-q", "mail", "10/s", "--dry-run")
    assert done.out == "would limit queue mail: 10/s on workers *\n"
    document = embedded.ok("worker", "rate-limit", "-q", "mail", "10/s", "--dry-run", "--json").json
    assert document["stores"] == [
        {"workers": "*", "subject": "queue:mail", "value": {"tasks": 10, "seconds": 1, "each": False}}
    ]
    assert embedded.ok("directives", "list", "--json").json["directives"] == []


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("-q", "mail", "5/fortnight", "-y"), 2, "'5/fortnight' is no rate (accepted: 10/s, 100/m, 5000/h"),
        (("-q", "mail", "0/s", "-y"), 2, "'0/s' starts no task at all (to stop the work: stem queue pause)"),
        (("-q", "mail", "10", "-y"), 2, "'10' is no rate"),
        (("10/s", "-y"), 2, "give either --queue or --name"),
        (("-q", "mail", "--name", "shop.add", "10/s", "-y"), 2, "give either --queue or --name"),
        (("-q", " ", "10/s", "-y"), 2, "--queue is blank"),
        (("-q", "mail", "10/s", "--for", "-1s", "-y"), 2, "'-1s' is not a duration"),
        (("-q", "mail", "10/s"), 5, "not confirmed: this limits the whole fleet of namespace 'stem': queue mail: 10/s"),
        (("-q", "mail", "default", "-y"), 4, "no directive about a rate limit of queue mail is in force there"),
    ],
)  # fmt: skip
def test_wrong_input_names_what_is_wrong_and_stores_nothing(
    embedded: Program, arguments: tuple[str, ...], code: int, said: str, form: tuple[str, ...]
) -> None:
    embedded.refuses(code, said, "worker", "rate-limit", *arguments, *form)


@KINDS
def test_a_queue_is_resumed_slowly_until_it_is_empty(kind: str, shop_on: Callable[[str], Shop]) -> None:
    shop = shop_on(kind)
    shop.worker("alpha")
    program = shop.program
    program.ok("queue", "pause", "mail", "--yes", "--wait")
    backlog = shop.send("shop.note", 45)
    assert "limit of queue mail to 10/s until the queue is empty" in program.ok(
        "queue", "resume", "mail", "--at", "10/s", "--dry-run"
    ).out  # fmt: skip
    done = program.ok("queue", "resume", "mail", "--at", "10/s", "--yes", "--wait")
    assert "limited to 10/s until the queue is empty: queue mail on workers *" in done.out
    assert limits(shop)["alpha"]["queue:mail"]["value"]["rate"] == "10/s"
    eventually(lambda: shop.ended(backlog), PATIENCE)
    found = starts_of(shop, backlog)
    assert found[-1] - found[0] >= 3.3
    # The worker ends it, for all and with its name.
    eventually(lambda: not limits(shop)["alpha"], PATIENCE)
    eventually(lambda: program.ok("directives", "list", "--json").json["directives"] == [], PATIENCE)
    (cleared, *_) = program.ok("directives", "list", "--history", "--kind", "rate-limit", "--json").json["directives"]
    assert (cleared["state"], cleared["requested_by"], cleared["reason"]) == (
        "cleared", "worker alpha", "the queue is empty",
    )  # fmt: skip


def test_a_slow_resume_can_be_hurried_and_replaces_no_other_limit(shop_on: Callable[[str], Shop]) -> None:
    shop = shop_on("embedded")
    shop.worker("alpha")
    program = shop.program
    program.ok("queue", "pause", "mail", "--yes", "--wait")
    backlog = shop.send("shop.note", 30)
    program.ok("queue", "resume", "mail", "--at", "1/h", "--yes")
    assert not shop.ended(backlog)
    program.ok("queue", "resume", "mail", "--at", "2/h", "--yes")  # another rate
    assert limits(shop)["alpha"]["queue:mail"]["value"]["rate"] == "2/h"
    done = program.ok("queue", "resume", "mail", "--yes")
    assert "no limit any more" in done.out
    eventually(lambda: shop.ended(backlog), PATIENCE)

    program.ok("worker", "rate-limit", "-q", "mail", "100/s", "--yes")
    program.ok("queue", "pause", "mail", "--yes")
    refused = program.run("queue", "resume", "mail", "--at", "10/s", "--yes")
    assert (refused.code, "queue mail has a rate limit already" in refused.err) == (2, True), refused
    assert "paused" in program.ok("directives", "list").out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("mail", "--at", "5/fortnight", "-y"), 2, "'5/fortnight' is no rate"),
        (("--all-queues", "--at", "5/s", "-y"), 2, "all queues can't be resumed at one rate"),
        (("mail*", "--at", "5/s", "-y"), 2, "queues mail* can't be resumed at one rate"),
        (("mail", "--at", "5/s", "-y"), 4, "nothing is paused"),
    ],
)
def test_a_slow_resume_that_makes_no_sense_stores_nothing(
    embedded: Program, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = embedded.run("queue", "resume", *arguments)
    assert done.code == code, done
    assert said in done.err
