"""``stem queue pause`` and ``resume``, and the same of ``stem worker``: the first thing an on-call engineer does."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit, urlunsplit

import pytest

from stem_kombu.clock import SYSTEM, parse_isoformat
from stem_kombu.outcome import TaskState
from stem_kombu.settings import Settings
from stem_kombu.stores.records import Change
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.transports.connections import open_connection
from tests.cli.program import STEM, Program
from tests.cli.shop_fleet import Shop
from tests.cli.terminal import at_terminal
from tests.waiting import eventually

KINDS = pytest.mark.parametrize("kind", ["embedded", "redis", "amqp"])
#: Longest wait for tasks, in seconds: a lease of what a killed worker held may have to end.
PATIENCE = 150.0


@KINDS
def test_g22_of_200_tasks_of_a_paused_queue_none_runs_is_lost_or_counts_an_attempt(
    kind: str, shop_on: Callable[[str], Shop]
) -> None:
    """Over restarts, SIGKILL, and workers that start meanwhile."""
    shop = shop_on(kind)
    program = shop.program
    alpha = shop.worker("alpha")
    # Two that run when the pause comes, and try again later: their next attempts must not start either.
    retried = shop.send("shop.again", 2, gate=shop.gate.path)
    for one in retried:
        shop.gate.wait_reached(one)
    # What is reserved, deferred, held for an eta, and waits.
    # Inline tasks would start at once: they come when the queue is paused.
    sent = [*shop.send("shop.mark", 90), *shop.send("shop.mark", 20, countdown=3.0)]
    document = program.ok("queue", "pause", "mail", "--yes", "--reason", "INC-42", "--json").json
    (reply,) = document["replies"]
    assert (document["consumers"], reply["payload"]["starting"]) == (1, 0)
    assert reply["payload"]["settings"]["pause"]["mail"]["reason"] == "INC-42"
    begun = shop.started()
    assert set(begun) == {(one, 1) for one in retried}
    sent += [*shop.send("shop.note", 60), *shop.send("shop.mark", 30)]
    shop.gate.open()
    eventually(lambda: all(_state(shop, one) is TaskState.RETRYING for one in retried), PATIENCE)
    assert len(sent) == 200

    eventually(lambda: shop.depth() >= 180, PATIENCE)  # what it had is back; those with an eta may be counted apart
    alpha.signal(signal.SIGKILL)
    alpha.wait_code()
    bravo = shop.worker("bravo")
    alpha = shop.worker("alpha")
    assert bravo.terminate() == 0
    bravo = shop.worker("bravo")
    bravo.signal(signal.SIGKILL)
    bravo.wait_code()
    bravo = shop.worker("bravo")
    # They work, and the etas have passed.
    others = shop.send("shop.mark", 4, queue="other")
    eventually(lambda: shop.ended(others), PATIENCE)
    eta = datetime.now(timezone.utc) + timedelta(seconds=0.5)
    eventually(lambda: datetime.now(timezone.utc) > eta, 10)
    assert set(shop.started()) == {*begun, *((one, 1) for one in others)}

    program.ok("queue", "resume", "mail", "--yes")
    everything = [*sent, *retried]
    eventually(lambda: shop.ended(everything), PATIENCE, lambda: f"{len(shop.started())} started")
    records = [shop.backend.get(one) for one in everything]
    assert {record.state for record in records if record is not None} == {TaskState.SUCCEEDED}
    started = shop.started()
    assert {one: [attempt for task, attempt in started if task == one] for one in sent} == {one: [1] for one in sent}
    assert all(sorted(attempt for task, attempt in started if task == one) == [1, 2] for one in retried)
    assert max(started.values()) == 1


def _state(shop: Shop, task_id: str) -> TaskState | None:
    record = shop.backend.get(task_id)
    return None if record is None else record.state


@KINDS
def test_g21_g24_a_pause_holds_for_a_worker_that_starts_later_and_shows_everywhere(
    kind: str, shop_on: Callable[[str], Shop]
) -> None:
    shop = shop_on(kind)
    program = shop.program
    done = program.ok("queue", "pause", "mail", "--yes", "--for", "1h", "--requester", "ada@ops")
    assert "hint: no worker that answered consumes queue mail" in done.err
    (waiting,) = shop.send("shop.mark")
    alpha = shop.worker("alpha")
    assert "paused mail" in alpha.out
    (other,) = shop.send("shop.mark", queue="other")
    eventually(lambda: shop.ended([other]), PATIENCE)
    assert {task for task, _ in shop.started()} == {other}
    (stats,) = program.ok("worker", "stats", "--json").json["replies"]
    payload = stats["payload"]
    assert payload["queues"]["mail"]["consuming"] is False
    assert payload["queues"]["mail"]["paused_by"] == payload["directives"]
    assert payload["queues"]["other"] == {"depth": payload["queues"]["other"]["depth"], "consuming": True}
    setting = payload["settings"]["pause"]["mail"]
    assert (setting["value"], setting["source"], setting["base"], setting["requested_by"]) == (
        True, "directive", False, "ada@ops",
    )  # fmt: skip
    assert payload["settings"]["pause"]["other"]["source"] == "default"
    assert payload["state"] == "running"
    (ping,) = program.ok("worker", "ping", "--json").json["replies"]
    assert ping["payload"]["paused"] == ["mail"]
    assert program.ok("worker", "inspect", "--json").json["replies"][0]["payload"]["settings"]["pause"]["mail"]["value"]
    assert "mail" in program.ok("worker", "status").out
    program.ok("queue", "resume", "mail")
    eventually(lambda: shop.ended([waiting]), PATIENCE)
    (ping,) = program.ok("worker", "ping", "--json").json["replies"]
    assert "paused" not in ping["payload"]


@KINDS
def test_g21_g24_a_pause_that_the_store_has_lost_is_put_back_so_that_it_can_be_ended(
    kind: str, shop_on: Callable[[str], Shop]
) -> None:
    shop = shop_on(kind)
    program = shop.program
    program.ok("queue", "pause", "mail", "--yes", "--requester", "ada@ops")
    shop.worker("alpha")  # which has read it before it is ready
    (waiting,) = shop.send("shop.mark")
    store = open_revoke_store(Settings.from_env(program.variables).revoke_store.value)
    (held,) = store.records_since("stem", 0, ["directive"])
    store.change("stem", Change(forgotten=[("directive", held.key)]))
    # The next change of any kind shows the worker that the store is not what it was
    program.ok("worker", "log-level", "info", "-w", "alpha")
    again = eventually(lambda: store.record("stem", "directive", held.key), PATIENCE)
    assert (again.body, again.expires_at) == (held.body, held.expires_at)
    store.close()
    assert shop.depth() == 1
    program.ok("queue", "resume", "mail")
    eventually(lambda: shop.ended([waiting]), PATIENCE)


def test_g23_a_pause_ends_by_itself_with_the_store_and_the_broker_s_control_untouched(
    shop_on: Callable[[str], Shop],
) -> None:
    shop = shop_on("embedded")
    shop.worker("alpha")
    program = shop.program
    program.ok("queue", "pause", "mail", "--yes", "--for", "2s")
    (waiting,) = shop.send("shop.mark")
    eventually(lambda: shop.ended([waiting]), PATIENCE)
    record = shop.backend.get(waiting)
    assert record is not None
    store = open_revoke_store(program.variables["STEM_RESULT_BACKEND_URL"])
    (held,) = store.records_since("stem", 0, ["directive"])
    store.close()
    assert record.started_at is not None and held.expires_at is not None
    assert timedelta(0) <= record.started_at - held.expires_at < timedelta(seconds=5)  # 1 s, and a busy machine


@pytest.mark.parametrize("kind", ["redis", "amqp"])
def test_g23_a_pause_ends_within_a_second_though_broker_and_store_are_down(
    kind: str, shop_on: Callable[[str], Shop]
) -> None:
    program = shop_on(kind).program
    with contextlib.ExitStack() as stack:
        proxies, reached = [], {}
        for name, url in program.variables.items():
            if name.endswith("_URL") and not url.startswith("sqlite"):
                place = urlsplit(url)
                proxies.append(stack.enter_context(TcpProxy(place.hostname or "", place.port or 0)))
                user = f"{place.netloc.rpartition('@')[0]}@" if "@" in place.netloc else ""
                netloc = f"{user}{proxies[-1].host}:{proxies[-1].port}"
                reached[name] = urlunsplit(place._replace(netloc=netloc))
        worker = program.start_worker("--name", "alpha", "-Q", "mail", env=reached)
        for lasting in (6, 30, 120):
            (pause,) = program.ok("queue", "pause", "mail", "-y", "--for", f"{lasting}s", "--json").json["stored"]
            for proxy in proxies:
                proxy.stop()
            end = parse_isoformat(pause["expires_at"])
            if SYSTEM.utcnow() < end:
                break
            for proxy in proxies:  # a busy machine: it had ended before they were down
                proxy.start()
        said = "queue mail is not paused any more"
        line = eventually(lambda: next((one for one in worker.err.splitlines()[::-1] if said in one), None), PATIENCE)
        at = datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone()
        end = end.replace(microsecond=end.microsecond // 1000 * 1000)  # a line of the log ends at the millisecond
        assert timedelta(0) <= at - end < timedelta(seconds=5)  # 1 s, and a busy machine


def test_only_that_worker_is_paused(shop_on: Callable[[str], Shop]) -> None:
    shop = shop_on("embedded")
    shop.worker("alpha")
    shop.worker("bravo")
    program = shop.program
    document = program.ok("worker", "pause", "-w", "alpha", "--wait", "--json").json
    assert [reply["worker"] for reply in document["replies"]] == ["alpha"]
    ids = shop.send("shop.mark", 10)
    eventually(lambda: shop.ended(ids), PATIENCE)
    assert {record.worker for one in ids if (record := shop.backend.get(one)) is not None} == {"bravo"}
    # Exempted under a pause of the fleet, one queue of that worker goes on.
    program.ok("queue", "pause", "--all-queues", "--yes")
    exempt = program.ok("queue", "resume", "other", "-w", "alpha", "--json").json["stored"]
    assert [(one["subject"], one["workers"], one["value"]) for one in exempt] == [("other", "alpha", False)]
    (one,) = shop.send("shop.mark", queue="other")
    eventually(lambda: shop.ended([one]), PATIENCE)
    assert shop.backend.get(one).worker == "alpha"  # type: ignore[union-attr]
    cleared = program.ok("worker", "resume", "--yes", "--json").json["stored"]
    assert all(one["cleared"] for one in cleared)
    assert len(cleared) == 3


def test_a_worker_that_ignores_directives_says_so(shop_on: Callable[[str], Shop]) -> None:
    shop = shop_on("embedded")
    shop.worker("alpha", "--ignore-directives")
    program = shop.program
    program.ok("queue", "pause", "mail", "--yes")
    (one,) = shop.send("shop.mark")
    eventually(lambda: shop.ended([one]), PATIENCE)
    (worker,) = program.ok("worker", "status", "--json").json["workers"]
    assert worker["ignores_directives"] is True


# -- what is wrong ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("queue", "pause"), 2, "name a QUEUE, or give --all-queues"),
        (("queue", "pause", ""), 2, "QUEUE is blank"),
        (("queue", "pause", "amq.x", "-y"), 2, "queue name 'amq.x' begins with 'amq.'"),
        (("queue", "pause", "mail", "--all-queues"), 2, "--all-queues names them all"),
        (("queue", "pause", "mail", "--for", "-1s", "-y"), 2, "'-1s' is not a duration"),
        (("queue", "pause", "mail", "--for", "0", "-y"), 2, "must be more than zero"),
        (("queue", "pause", "mail", "--until", "teatime", "-y"), 2, "'teatime' is no time"),
        (("queue", "pause", "mail", "--until", "2020-01-01T00:00:00Z", "-y"), 2, "has passed"),
        (("queue", "pause", "mail", "--until", "14:00", "--for", "1h", "-y"), 2, "exclude each other"),
        (("queue", "pause", "mail"), 5, "not confirmed: this pauses queue mail on every worker of namespace 'stem'"),
        (("worker", "pause"), 5, "not confirmed: this pauses all queues on every worker"),
        (("worker", "pause", "-w", " "), 2, "--worker is blank"),
        (("queue", "resume", "mail"), 4, "nothing is paused: no live pause is about queue mail"),
        (("worker", "resume", "-w", "alpha"), 4, "nothing is paused: no live pause is about all queues on alpha"),
    ],
)  # fmt: skip
def test_wrong_input_names_what_is_wrong_and_stores_nothing(
    embedded: Program, arguments: tuple[str, ...], code: int, said: str, form: tuple[str, ...]
) -> None:
    done = embedded.run(*arguments, *form)
    assert done.code == code, done
    assert said in done.err
    if form:
        assert (done.json["code"], done.json["stored"]) == (code, [])
    store = open_revoke_store(embedded.variables["STEM_RESULT_BACKEND_URL"])
    assert list(store.records_since("stem", 0)) == []
    store.close()


def test_a_second_pause_replaces_the_first(embedded: Program) -> None:
    first = embedded.ok("queue", "pause", "mail", "-y", "--json").json["stored"]
    second = embedded.ok("queue", "pause", "mail", "-y", "--until", "2999-01-01T00:00:00Z", "--json").json["stored"]
    assert [one["expires_at"] for one in (*first, *second)] == [None, "2999-01-01T00:00:00.000000Z"]
    assert second[0]["version"] > first[0]["version"]
    assert len(embedded.ok("queue", "resume", "mail", "--json").json["stored"]) == 1


def test_g36_a_pause_of_the_fleet_asks_and_enter_is_no(embedded: Program) -> None:
    done = at_terminal([STEM, "queue", "pause", "mail"], "\n", env=embedded.environment, cwd=embedded.folder)
    assert done.code == 5, done
    assert "This pauses queue mail on every worker of namespace 'stem' until it is resumed. Go on? [y/N]" in done.err
    done = at_terminal([STEM, "queue", "pause", "mail"], "y\n", env=embedded.environment, cwd=embedded.folder)
    assert done.code == 0, done


@KINDS
def test_g36_a_resume_that_lets_more_than_a_hundred_tasks_loose_asks(kind: str, shop_on: Callable[[str], Shop]) -> None:
    shop = shop_on(kind)
    program = shop.program
    program.ok("queue", "pause", "mail", "-y")
    shop.send("shop.mark", 101)
    done = program.run("queue", "resume", "mail")
    assert done.code == 5, done
    assert "this resumes queue mail, with 101 tasks that wait" in done.err
    program.ok("queue", "resume", "mail", "-y")


def test_a_dry_run_stores_nothing(embedded: Program) -> None:
    document = embedded.ok("queue", "pause", "mail", "--dry-run", "--json").json
    assert [(one["subject"], one["workers"], one["value"]) for one in document["stores"]] == [("mail", "*", True)]
    assert "would store: pause of mail on workers *" in embedded.ok("queue", "pause", "mail", "--dry-run").out
    assert embedded.run("queue", "resume", "mail", "--dry-run").code == 4


def test_a_generated_id_is_this_life_only(embedded: Program) -> None:
    done = embedded.ok("worker", "pause", "-w", "stem@host-12-0a1b2c3d")
    assert (
        "warning: stem@host-12-0a1b2c3d is a generated id: the directive is for this life of the worker only"
        in done.err
    )
    assert "-w '*@host-*'" in done.err


@pytest.mark.parametrize("kind", ["embedded", "amqp"])
def test_a_pause_that_would_delete_its_queue_is_refused(kind: str, program_on: Callable[[str], Program]) -> None:
    program = program_on(kind)
    connection = open_connection(program.variables["STEM_BROKER_URL"])
    try:
        channel = connection.default_channel
        channel.queue_declare("fleeting", durable=True, auto_delete=True)
        channel.queue_declare("short", durable=True, auto_delete=False, arguments={"x-expires": 60_000})
        channel.queue_declare("lasting", durable=True, auto_delete=False)
        done = program.run("queue", "pause", "fleeting", "--yes")
        assert done.code == 5, done
        assert "the broker deletes queue fleeting at once when no worker consumes it" in done.err
        done = program.run("queue", "pause", "short", "--for", "1h", "--yes")
        assert done.code == 5, done
        assert "hint: pause it for less than 1m with --for" in done.err
        assert program.run("queue", "pause", "short", "--yes").code == 5
        assert program.ok("queue", "pause", "short", "--for", "5s", "--yes")
        assert program.ok("queue", "pause", "lasting", "--yes")
    finally:
        connection.release()
