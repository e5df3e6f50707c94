"""The project's main job, by the installed program alone: watch a fleet, stop a running render, lose nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stem_kombu.testing.gates import Gate
from tests.cli.conftest import program_on
from tests.cli.program import Program
from tests.waiting import eventually

__all__ = ["program_on"]


@pytest.mark.parametrize("kind", ["embedded", "redis", "amqp"])
def test_g1_g3_g7_an_operator_stops_a_running_render_and_nothing_is_lost(
    program_on: Callable[[str], Program],
    kind: str,
    tmp_path: Path,
) -> None:
    program = program_on(kind)
    # Redis and the embedded broker give back what a killed worker held after their leases, AMQP at once.
    for name in ("alpha", "bravo"):
        program.begin_worker("--name", name, "-c", "1", "--heartbeat-interval", "1s")
    for worker in program.workers:
        worker.wait_ready()
    assert program.ok("worker", "ping", "--json").json["expected"] == ["alpha", "bravo"]

    # given two renders that run, one that waits, and others behind them
    gates = [Gate(tmp_path / f"render-{n}") for n in range(3)]
    renders = [program.send("shop.render", gate=gate.path) for gate in gates]
    eventually(lambda: sum(gate.reached() is not None for gate in gates) == 2)
    running = [n for n in range(3) if gates[n].reached() is not None]
    (waiting,) = set(range(3)) - set(running)
    bystanders = [program.send("shop.add", a=n) for n in range(5)]
    inspected = program.ok("worker", "inspect", "--json").json
    seen = {task["id"] for reply in inspected["replies"] for task in reply["payload"]["in_flight"]}
    assert seen == {renders[n] for n in running}

    # when one that runs and the one that waits are revoked
    stopped = running[0]
    document = program.ok(
        "worker",
        "revoke",
        "-t",
        renders[stopped],
        "-t",
        renders[waiting],
        "--terminate",
        "--reason",
        "INC-42",
        "--json",
    ).json
    assert document["broadcast"]
    assert document["complete"]
    terminated = [task for reply in document["replies"] for task in reply["payload"]["terminated"]]
    assert terminated == [renders[stopped]]

    # then the first has stopped at its checkpoint, the second never starts, and both say why
    for n in (stopped, waiting):
        record = program.ended(renders[n])
        assert (record["state"], record["revocation"]["reason"]) == ("cancelled", "INC-42")
    assert gates[waiting].reached() is None
    # the slot that came free has run the others
    assert [program.ended(task)["result"] for task in bystanders] == list(range(5))

    # when everything stops, one of them by a kill, and the revoked ids are sent once more to a new fleet
    gates[running[1]].open()
    assert program.ended(renders[running[1]])["result"] == "rendered"
    program.workers[0].process.kill()
    program.workers[0].process.wait()
    assert program.workers[1].terminate() == 0
    again = Gate(tmp_path / "again")
    program.send("shop.render", "--id", f"{renders[stopped]}", gate=again.path)
    new = program.start_worker("--name", "charlie", "-c", "1")
    assert "revision " in new.out
    assert program.ended(program.send("shop.add", a=42))["result"] == 42
    # then it isn't run, and everybody who lives answers
    assert again.reached() is None
    assert (
        program.ok("worker", "inspect", "-w", "charlie", "--revoked", "--json").json["replies"][0]["payload"][
            "revoked_count"
        ]
        == 2
    )
