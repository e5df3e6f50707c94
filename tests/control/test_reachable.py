"""A worker answers whatever else it is doing, and whatever else is down (G16)."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from kombu import Connection

from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.command_request import CommandRequest, RequestTimes
from stem_kombu.control.client.directives import DirectiveClient
from stem_kombu.control.client.revocations import RevocationClient
from stem_kombu.control.client.selecting import SelectorClient
from stem_kombu.control.client.selection import Gathering, Wish
from stem_kombu.control.protocol.codec import decode_command
from stem_kombu.control.protocol.messages import Call, Inspect, Obey, Ping, Stats
from stem_kombu.control.server.worker_view import RevocationFacts, WorkerView
from stem_kombu.directive import Directive, Kind
from stem_kombu.errors import BrokerUnavailable, StoreLate, StoreUnavailable
from stem_kombu.revocation import RevocationDraft
from stem_kombu.selector import Selector
from stem_kombu.settings import Settings
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.transports.connections import connect
from tests.control.fleet import FACTS, Fleet, answered_by, running_task
from tests.control.wire import Wire, revoke_order


@pytest.fixture
def proxy(redis_url: str, proxy_for: Callable[[str, int], TcpProxy]) -> TcpProxy:
    """A link to a Redis."""
    parts = urlsplit(redis_url)
    return proxy_for(parts.hostname or "127.0.0.1", parts.port or 0)


def test_g16_a_revoke_that_waits_for_its_tasks_delays_no_ping(fleet: Fleet, wire: Wire) -> None:
    # given a worker with a task that was told to stop and does not
    (alpha,) = fleet.start("alpha")
    alpha.worker.tasks = [running_task("t1")]
    waiting = wire.tell("alpha", revoke_order("t1", terminate=True, settle=20.0))
    assert alpha.worker.waiting.acquire(timeout=10)
    # when it is pinged, by both ways
    assert wire.ping("alpha").payload["state"] == "running"
    with fleet.client() as client:
        assert client.ping().complete
    # then that was answered before the revoke was, which is once its task has ended
    assert wire.replies_to(waiting) == []
    alpha.worker.endings["t1"] = "cancelled"
    alpha.worker.ended.set()
    assert wire.reply(waiting).payload["terminated"] == ["t1"]


def test_g12_an_answer_is_held_back_for_no_longer_than_its_sender_listens(fleet: Fleet, wire: Wire) -> None:
    (alpha,) = fleet.start("alpha")
    alpha.worker.tasks = [running_task("t1")]
    # given a revoke that has been on its way for two thirds of its time
    late = wire.tell(
        "alpha", revoke_order("t1", terminate=True, settle=20.0), now=SYSTEM.utcnow() - timedelta(seconds=20)
    )
    # then it is answered at once, though its task has not ended
    assert wire.reply(late).payload["pending"] == ["t1"]


def test_g12_who_looked_at_the_roster_for_long_is_waited_for_no_longer() -> None:
    now, sent = SYSTEM.monotonic(), []
    stamped = SYSTEM.utcnow()
    question = CommandRequest(
        "stem", [Ping()], None, RequestTimes(3.0, now - 2.0, now + 1.0, stamped), "me", clock=SYSTEM
    )  # fmt: skip
    question.begin(SimpleNamespace(reply_to="stem-stem-ctl-r-x", broadcast=lambda body, *_, **__: sent.append(body)))
    assert decode_command(sent[0], known=bool).expires_at <= stamped + timedelta(seconds=1)


def test_g16_a_revoke_that_waits_delays_no_other_revoke(fleet: Fleet, wire: Wire) -> None:
    (alpha,) = fleet.start("alpha")
    alpha.worker.tasks = [running_task("t1")]
    # given more revokes that wait than there are threads to wait in
    waiting = [wire.tell("alpha", revoke_order("t1", terminate=True, settle=20.0)) for _ in range(40)]
    assert alpha.worker.waiting.acquire(timeout=10)
    # when another one comes, it is taken and answered
    assert wire.reply(wire.tell("alpha", revoke_order("t2"))).payload["applied"] == ["t2"]
    assert wire.reply(wire.tell("alpha", Inspect())).payload["revoked_count"] == 41
    assert not any(wire.replies_to(command) for command in waiting)
    alpha.worker.ended.set()
    for command in waiting:
        assert wire.reply(command).payload["pending"] == ["t1"]


def test_g16_revokes_that_wait_delay_no_directive(fleet: Fleet, wire: Wire) -> None:
    (alpha,) = fleet.start("alpha")
    alpha.worker.tasks = [running_task("t1")]
    # given more revokes that wait than there are threads to wait in
    waiting = [wire.tell("alpha", revoke_order("t1", terminate=True, settle=20.0)) for _ in range(40)]
    assert alpha.worker.waiting.acquire(timeout=10)
    # when a queue is paused, that is obeyed and answered
    pause = Directive("stem", Kind.PAUSE, "queue:mail", "*", True, 7, SYSTEM.utcnow())
    assert wire.reply(wire.tell("alpha", Obey((pause,), 2.0))).payload["applied"] == 7
    assert alpha.worker.obeyed == [pause]
    assert not any(wire.replies_to(command) for command in waiting)
    alpha.worker.ended.set()


def test_g16_slow_commands_of_the_application_delay_no_ping_and_no_revoke(fleet: Fleet, wire: Wire) -> None:
    gate, started = threading.Event(), threading.Semaphore(0)

    def slow(view: WorkerView) -> str:
        started.release()
        gate.wait(20)
        return "done"

    alpha = fleet.add("alpha", commands={"slow": slow})
    slow_ones = [wire.tell("alpha", Call("slow")) for _ in range(20)]
    assert started.acquire(timeout=10)
    wire.ping("alpha")
    wire.reply(wire.tell("alpha", revoke_order("t1")))
    wire.reply(wire.tell("alpha", Stats()))
    assert alpha.worker.revoked == {"t1"}
    assert not any(wire.replies_to(command) for command in slow_ones)
    gate.set()
    for command in slow_ones:
        assert wire.reply(command).payload == {"result": "done"}


def test_g16_a_broker_that_does_not_tell_its_depths_delays_no_ping(fleet: Fleet, wire: Wire) -> None:
    gate, asked = threading.Event(), threading.Semaphore(0)

    def hang() -> Mapping[str, int | None]:
        asked.release()
        gate.wait(20)
        return {"default": 7}

    (alpha,) = fleet.start("alpha")
    alpha.worker.depths = hang
    slow_ones = [wire.tell("alpha", Stats()) for _ in range(10)]
    assert asked.acquire(timeout=10)
    wire.ping("alpha")
    wire.reply(wire.tell("alpha", Inspect()))
    wire.reply(wire.tell("alpha", revoke_order("t1")))
    assert not any(wire.replies_to(command) for command in slow_ones)
    gate.set()
    for command in slow_ones:
        assert wire.reply(command).payload["queues"] == {"default": {"depth": 7, "consuming": True}}


def test_g16_a_draining_worker_answers_and_says_so(fleet: Fleet) -> None:
    (alpha,) = fleet.start("alpha")
    alpha.worker.current = replace(FACTS, state="draining", consuming=False)
    with fleet.client() as client:
        (reply,) = client.ping().replies
    assert (reply.payload["state"], reply.payload["consuming"]) == ("draining", False)


def test_g16_control_is_answered_while_every_thread_computes(redis_fleet: Fleet) -> None:
    # given a worker whose every slot is busy and never lets go of the interpreter by itself
    redis_fleet.start("alpha", "bravo")
    done, counted = threading.Event(), [0, 0, 0]

    def compute(slot: int) -> None:
        while not done.is_set():
            counted[slot] += sum(range(500))

    threads = [threading.Thread(target=compute, args=(slot,), daemon=True) for slot in range(len(counted))]
    for thread in threads:
        thread.start()
    try:
        with redis_fleet.client() as client:
            assert client.ping().complete
            assert client.inspect().complete
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert all(counted)


def test_g16_a_worker_whose_store_is_down_answers_and_says_so(fleet: Fleet) -> None:
    (alpha,) = fleet.start("alpha")
    alpha.worker.held = RevocationFacts(count=2, revision=9, synced_ago=61.5, store_error="redis://h/0: refused")
    with fleet.client() as client:
        assert client.ping().complete
        (reply,) = client.inspect().replies
    assert reply.payload["store_error"] == "redis://h/0: refused"
    assert (reply.payload["revision"], reply.payload["synced_s_ago"]) == (9, 61.5)


def test_g16_workers_answer_while_the_roster_is_down(fleet: Fleet, fleet_on: Callable[..., Fleet]) -> None:
    # given workers, and a client for whom nobody can tell who is alive
    fleet.start("alpha", "bravo")
    nowhere = "redis://127.0.0.1:1/0"
    settings = Settings.from_env({}, broker=fleet.url, backend=nowhere, revoke_store=nowhere, timeout=1.0)
    with ControlClient(settings) as client:
        report = answered_by(client, "alpha", "bravo")
    # then the workers that answer within the timeout are reported, and so is the roster
    assert report.complete
    assert "live workers are unknown" in report.notes[0]
    assert report.elapsed >= 1.0


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
@pytest.mark.parametrize("scheme", ["redis", "postgresql"])
def test_g13_a_roster_that_accepts_and_never_answers_leaves_time_for_the_workers(fleet: Fleet, scheme: str) -> None:
    fleet.start("alpha", "bravo")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hanging = f"{scheme}://127.0.0.1:{mute.getsockname()[1]}/0"
        settings = Settings.from_env({}, broker=fleet.url, backend=hanging, timeout=3.0)
        with ControlClient(settings) as client:
            report = answered_by(client, "alpha", "bravo")
    assert "live workers are unknown" in report.notes[0]


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
@pytest.mark.parametrize("slow", ["before", "meanwhile"])
def test_g13_g32_a_slow_store_costs_an_order_its_entry_in_the_audit_and_not_its_time(
    fleet: Fleet, proxy: TcpProxy, slow: str
) -> None:
    """Found by the soak: a store that took three seconds for each answer held up a call of eight seconds for twenty."""
    fleet.add("alpha", commands={"mark": lambda view: proxy.delay(2.0)})
    store = f"redis://{proxy.host}:{proxy.port}/0"
    settings = Settings.from_env({}, broker=fleet.url, backend=fleet.place, revoke_store=store)
    with ControlClient(settings) as client:
        if slow == "before":
            proxy.delay(2.0)
        began = SYSTEM.monotonic()
        report = client.call("mark", timeout=10.0)
        # An entry takes eight seconds, and is waited for for three before the order and for one after it.
        assert SYSTEM.monotonic() - began < 7.0
        assert report.complete and report.replies[0].error is None
        assert report.audited is (slow == "meanwhile")


CHANGES: dict[str, Callable[[SelectorClient], object]] = {
    "revoke": lambda client: client.revoke(["t2"], timeout=3.0),
    "revoke by selector": lambda client: client.revoke_selected(
        Gathering(Wish(Selector("mail*"), SYSTEM.utcnow())).selection(), timeout=3.0
    ),
    "undo": lambda client: RevocationClient(client.settings).undo(["t1"], timeout=3.0),
    "pause": lambda client: DirectiveClient(client).pause(["mail"], timeout=3.0),
    "a look before a pause": lambda client: DirectiveClient(client).planned_pause(["mail"], timeout=3.0),
}


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
@pytest.mark.parametrize("change", CHANGES)
def test_g13_a_slow_store_costs_a_change_one_deadline_and_no_worker_is_told(
    fleet: Fleet, proxy: TcpProxy, change: str
) -> None:
    """A store that took two seconds for each answer held up a revoke of six seconds for 24: each answer was in time."""
    (alpha,) = fleet.start("alpha")
    place = f"redis://{proxy.host}:{proxy.port}/0"
    settings = Settings.from_env({}, broker=fleet.url, backend=place, revoke_store=place)
    with SelectorClient(settings) as client:
        client.revoke(["t1"])
        told = list(alpha.worker.applied)
        proxy.delay(2.0)
        began = SYSTEM.monotonic()
        with pytest.raises(StoreLate, match="did not answer within 3 s"):
            CHANGES[change](client)
        assert SYSTEM.monotonic() - began < 8.0  # it takes twelve and more
    assert (alpha.worker.applied, alpha.worker.obeyed) == (told, [])


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
def test_a_client_that_was_closed_says_so_and_blames_no_store(fleet: Fleet) -> None:
    client = fleet.client()
    client.close()
    with pytest.raises(StoreUnavailable, match=r"revoke store .* was not asked: the client is closed"):
        client.revoke(["t1"])


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
def test_g13_what_storing_takes_is_taken_off_the_time_of_the_workers(fleet: Fleet, proxy: TcpProxy) -> None:
    (alpha,) = fleet.start("alpha")
    fleet.add("mute", start=False)  # on the roster, and never answers
    store = f"redis://{proxy.host}:{proxy.port}/0"
    settings = Settings.from_env({}, broker=fleet.url, backend=fleet.place, revoke_store=store)
    with ControlClient(settings) as client:
        client.save([RevocationDraft("t1")])
        proxy.delay(0.75)
        began = SYSTEM.monotonic()
        # To store takes three seconds and more: with all of its time for the workers it would take eleven.
        report = client.revoke(["t2"], timeout=8.0)
        assert SYSTEM.monotonic() - began < 10.5
    assert (report.silent, report.timeout) == (("mute",), 8.0)
    assert "t2" in alpha.worker.revoked


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
def test_g13_a_slow_backend_costs_a_wait_for_verdicts_one_deadline(fleet: Fleet, proxy: TcpProxy) -> None:
    fleet.add("alpha").worker.tasks = [running_task("t1")]
    backend = f"redis://{proxy.host}:{proxy.port}/0"
    settings = Settings.from_env({}, broker=fleet.url, backend=backend, revoke_store=fleet.place)
    with ControlClient(settings) as client:
        proxy.delay(2.0)
        began = SYSTEM.monotonic()
        report = client.revoke(["t1"], terminate=True, wait=True, timeout=3.0)
        # To connect to the backend and to ask it takes twelve seconds.
        assert SYSTEM.monotonic() - began < 8.0
    assert [verdict.task_id for verdict in report.verdicts or ()] == ["t1"]


@pytest.mark.parametrize("broker_url", ["redis", "amqp"], indirect=True)
@pytest.mark.parametrize("revokes", [False, True])
def test_g13_a_broker_that_falls_silent_under_an_idle_client_costs_one_deadline(
    fleet: Fleet, proxy_for: Callable[[str, int], TcpProxy], revokes: bool
) -> None:
    """Found by the simulation: a connection that was kept waited ten seconds for the broker, whatever the command's time."""
    fleet.start("alpha")
    parts = urlsplit(fleet.url)
    proxy = proxy_for(parts.hostname or "127.0.0.1", parts.port or 0)
    with fleet.client(url=fleet.url.replace(f":{parts.port}", f":{proxy.port}")) as client:
        assert client.ping().complete
        proxy.stall()
        began = SYSTEM.monotonic()
        if revokes:
            report = client.revoke(["t1"], terminate=True, timeout=0.5)
            assert report.stored and report.broker_error is not None
        else:
            with pytest.raises(BrokerUnavailable, match=r"no answer in time|not connected within"):
                client.ping(timeout=0.5)
        # Generous to a busy machine, and far below the ten seconds of a connection that nobody is in a hurry with.
        assert SYSTEM.monotonic() - began < 4.0
        proxy.resume()
        assert client.ping().complete


@pytest.mark.parametrize("broker_url", ["redis", "amqp"], indirect=True)
@pytest.mark.parametrize("revokes", [False, True])
def test_g13_a_broker_that_falls_silent_while_a_client_connects_costs_one_deadline(
    fleet: Fleet, proxy_for: Callable[[str, int], TcpProxy], revokes: bool
) -> None:
    # Given how much the broker says to a client from its first byte to the end of a ping
    fleet.start("alpha")
    parts = urlsplit(fleet.url)
    proxy = proxy_for(parts.hostname or "127.0.0.1", parts.port or 0)
    url = fleet.url.replace(f":{parts.port}", f":{proxy.port}")
    with fleet.client(url=url) as client:
        assert client.ping().complete
        said = proxy.bytes_to_client
    # When it falls silent somewhere in between: before the handshake, in it, before the inbox is declared, after it
    for sixth in range(6):
        proxy.stall_after(said * sixth // 6)
        began = SYSTEM.monotonic()
        with fleet.client(url=url) as client:
            if revokes:
                report = client.revoke(["t1"], terminate=True, timeout=0.3)
                assert report.stored
                assert not report.complete
            else:
                with contextlib.suppress(BrokerUnavailable):
                    assert not client.ping(timeout=0.3).complete
        # Then the command ends; generous to a busy machine, and far below the ten seconds of a connection
        assert SYSTEM.monotonic() - began < 4.0, f"silent after {said * sixth // 6} of {said} bytes"
        proxy.resume()
    with fleet.client(url=url) as client:
        assert client.ping().complete


@pytest.mark.parametrize("broker_url", ["amqp"], indirect=True)
def test_g13_a_broker_that_falls_silent_within_a_frame_costs_one_deadline(
    fleet: Fleet, proxy_for: Callable[[str, int], TcpProxy]
) -> None:
    # Given how much the broker says until a client is logged in
    parts = urlsplit(fleet.url)
    proxy = proxy_for(parts.hostname or "127.0.0.1", parts.port or 0)
    url = fleet.url.replace(f":{parts.port}", f":{proxy.port}")
    with connect(Connection(url), 30.0):
        said = proxy.bytes_to_client
    # When it falls silent after the seven bytes that begin its next frame, in which py-amqp reads on
    proxy.stall_after(said + 9)
    with fleet.client(url=url) as client, pytest.raises(BrokerUnavailable):
        client.ping(timeout=0.3)


def test_g16_a_failing_part_of_the_worker_is_an_error_for_the_sender_and_no_end(fleet: Fleet, wire: Wire) -> None:
    # given a worker whose executors and whose store raise
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of order")

    (alpha,) = fleet.start("alpha")
    alpha.worker.in_flight = broken  # type: ignore[assignment,method-assign]
    alpha.worker.apply = broken  # type: ignore[assignment,method-assign]
    alpha.worker.depths = broken  # type: ignore[assignment]
    for order in (Inspect(), revoke_order("t1"), Stats()):
        error = wire.reply(wire.tell("alpha", order)).error
        assert error is not None
        assert (error.code, error.message) == ("failed", "RuntimeError: out of order")
    assert wire.ping("alpha").error is None


def test_g16_an_application_command_that_raises_is_answered_with_its_error(fleet: Fleet) -> None:
    def faulty(view: WorkerView, *, of: int) -> int:
        return 1 // of

    fleet.start("alpha", commands={"faulty": faulty, "odd": lambda view: {1, 2}})
    with fleet.client() as client:
        assert client.call("faulty", {"of": 1}).replies[0].payload == {"result": 1}
        (reply,) = client.call("faulty", {"of": 0}).replies
        assert reply.error is not None
        assert "ZeroDivisionError" in reply.error.message
        (reply,) = client.call("faulty", {"no": "such"}).replies
        assert reply.error is not None
        assert "TypeError" in reply.error.message
        (reply,) = client.call("odd").replies  # a set is no JSON
        assert reply.error is not None
        assert reply.error.code == "not-json"
        assert client.ping().complete


@pytest.mark.parametrize("order", [Ping(), Inspect(), Inspect(revoked=True), Stats()], ids=lambda order: repr(order))
def test_g16_a_worker_with_two_hundred_questions_before_it_answers_each_once(
    redis_fleet: Fleet, order: Ping | Inspect | Stats
) -> None:
    redis_fleet.start("alpha")
    with Wire(redis_fleet.url) as wire:
        asked = [wire.tell("alpha", order) for _ in range(200)]
        for command in asked:
            wire.reply(command)
        wire.ping("alpha")
        assert {len(wire.replies_to(command)) for command in asked} == {1}
