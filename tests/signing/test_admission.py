"""What whoever may only look can't do to operators: use up the room for commands."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.control.protocol.messages import Ping
from stem_kombu.control.server import replay_guard as admission
from stem_kombu.control.server.replay_guard import ReplayGuard, Verdict
from tests.control.wire import a_command
from tests.signing.scene import OPS, VIEWER


def test_g16_a_reader_can_not_use_up_the_room_for_an_operators_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MOST_COMMANDS", 6)
    monkeypatch.setattr(admission, "MOST_QUESTIONS", 3)
    door = ReplayGuard("alpha", "stem", SYSTEM.now, SYSTEM)

    def judged(signer: object, life: float = 3600.0) -> Verdict:
        command = a_command(Ping(), "stem-stem-ctl-r-x", signer=signer)
        return door.judge(replace(command, expires_at=command.issued_at + timedelta(seconds=life)))

    viewer, ops = VIEWER.active, OPS.active
    assert [judged(viewer) for _ in range(5)] == [Verdict.OBEY] * 3 + [Verdict.REFUSE] * 2
    assert [judged(ops) for _ in range(3)] == [Verdict.OBEY] * 3
    assert judged(ops) is Verdict.REFUSE
    assert door.dropped == {"overload": 3}


def test_g16_readers_can_take_no_more_than_half_of_the_room() -> None:
    assert admission.MOST_QUESTIONS <= admission.MOST_COMMANDS // 2
