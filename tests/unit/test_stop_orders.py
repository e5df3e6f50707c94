"""A shutdown's modes, when they escalate, and on the wire."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from math import inf

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.control.protocol.codec import Unreadable, decode_command, encode_command
from stem_kombu.control.protocol.messages import Command, Order, Ping, Shutdown, ShutdownMode, scope_of
from stem_kombu.control.server.replay_guard import ReplayGuard, Verdict
from stem_kombu.signing.keyring import Scope
from stem_kombu.transports import names
from stem_kombu.worker.stop_orders import StopOrders, due
from tests.waiting import eventually

WARM, SOFT, HARD = ShutdownMode
NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


class Scene:
    """A worker that stops when the test lets it, and the orders for it."""

    state = "running"

    def __init__(self) -> None:
        self.told: list[str] = []
        self.down = threading.Event()
        self.ended = threading.Event()
        self.orders = StopOrders(self, self, "alpha", SYSTEM)

    def stop(self) -> None:
        self.told.append("stop")
        self.down.wait(60)
        self.ended.set()

    def release(self) -> None:
        self.told.append("release")

    def release_running(self) -> None:
        self.told.append("release running")


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.down.set()


@pytest.mark.parametrize(
    ("order", "soft", "hard"),
    [
        (Shutdown(WARM), inf, inf),
        (Shutdown(WARM, 30, SOFT), 130, inf),
        (Shutdown(WARM, 30, HARD), inf, 130),
        (Shutdown(SOFT, 30), 130, inf),
        (Shutdown(SOFT, 30, HARD), 130, 160),
        (Shutdown(HARD, 30), 100, 100),
    ],
)
def test_g33_when_a_shutdown_asks_handlers_to_leave_and_when_it_kills(
    order: Shutdown, soft: float, hard: float
) -> None:
    assert due(order, 100.0) == (soft, hard)


def test_g33_asking_again_only_escalates(scene: Scene) -> None:
    take = scene.orders.take
    assert take(Shutdown(WARM)) == ("warm", "running", 0)
    assert take(Shutdown(SOFT, 600)) == ("soft", "warm", 0)
    assert take(Shutdown(WARM)) == ("soft", "soft", 0)
    assert take(Shutdown(WARM, exit_code=75)) == ("soft", "soft", 75)
    assert take(Shutdown(SOFT, 900, exit_code=0)) == ("soft", "soft", 75)
    assert scene.told in ([], ["stop"]), "ten minutes are left"
    assert take(Shutdown(HARD)) == ("hard", "soft", 75)
    eventually(lambda: "release" in scene.told)
    assert take(Shutdown(SOFT, 0)) == ("hard", "hard", 75)
    scene.down.set()
    assert scene.ended.wait(30)
    assert scene.told.count("stop") == 1


def test_g33_a_soft_shutdown_asks_again_whatever_was_about_to_start(scene: Scene) -> None:
    scene.orders.take(Shutdown(SOFT, 0))
    eventually(lambda: scene.told.count("release running") >= 2)
    assert "release" not in scene.told
    scene.down.set()
    eventually(lambda: not [one for one in threading.enumerate() if one.name == "stem-escalate"])


def test_a_worker_that_a_signal_stops_already_can_be_escalated(scene: Scene) -> None:
    scene.state = "draining"
    assert scene.orders.take(Shutdown(HARD)) == ("hard", "warm", 0)
    eventually(lambda: "release" in scene.told)
    scene.down.set()


def command(order: Order, issued_at: datetime = NOW) -> Command:
    reply_to = names.reply_name("stem", "ab" * 8)
    return Command("r1", "stem", order, issued_at, issued_at + timedelta(seconds=30), reply_to)


@pytest.mark.parametrize(
    "order",
    [Shutdown(), Shutdown(SOFT, 2.5, HARD, 75, "INC-42", "kim@host"), Shutdown(HARD, 0.0)],
)
def test_it_comes_back_from_the_wire_as_it_was(order: Shutdown) -> None:
    assert decode_command(encode_command(command(order)), known=lambda _: False).order == order


@pytest.mark.parametrize(
    "wrong",
    [b'"mode":"cold"', b'"mode":null', b'"then":"never"', b'"grace_s":-1', b'"grace_s":"soon"', b'"exit_code":256'],
)
def test_what_means_nothing_is_refused(wrong: bytes) -> None:
    name = wrong.partition(b":")[0]
    body = encode_command(command(Shutdown()))
    at = body.index(name)
    end = min(place for mark in (b",", b"}") if (place := body.find(mark, at)) > 0)
    with pytest.raises(Unreadable):
        decode_command(body[:at] + wrong + body[end:], known=lambda _: False)


def test_what_kills_needs_the_scope_destroy() -> None:
    assert scope_of(Shutdown(WARM)) is scope_of(Shutdown(SOFT)) is scope_of(Shutdown(WARM, 1, SOFT)) is Scope.OPERATE
    assert scope_of(Shutdown(HARD)) is scope_of(Shutdown(SOFT, 1, HARD)) is scope_of(Shutdown(WARM, 1, HARD))
    assert scope_of(Shutdown(HARD)) is Scope.DESTROY


def test_g33_a_shutdown_from_before_this_life_is_ignored_without_keys_too() -> None:
    born = (NOW + timedelta(seconds=5)).timestamp()
    guard = ReplayGuard("alpha", "stem", lambda: born + 1, SYSTEM, lambda: born)
    assert guard.judge(command(Shutdown())) is Verdict.STALE
    assert guard.judge(command(Ping())) is Verdict.OBEY
    later = Command(**{**vars_of(command(Shutdown(), NOW + timedelta(seconds=5.5))), "request_id": "r2"})
    assert guard.judge(later) is Verdict.OBEY
    assert guard.judge(later) is Verdict.KNOWN, "never obeyed twice"


def vars_of(one: Command) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}
