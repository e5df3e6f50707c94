"""``stem worker scale``: children appear at once, and go after their task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.testing.gates import Gate
from tests.cli.program import Program
from tests.waiting import eventually


def stats(program: Program) -> Any:
    (reply,) = program.ok("worker", "stats", "--json").json["replies"]
    return reply["payload"]


def children(program: Program) -> int:
    return len(stats(program)["pool"])


@pytest.mark.parametrize("kind", ["embedded", "redis", "amqp"])
def test_g24_g25_a_worker_grows_and_shrinks_while_its_tasks_run_to_their_end(
    kind: str, program_on: Callable[[str], Program], tmp_path: Path
) -> None:
    program = program_on(kind)
    program.start_worker("--name", "alpha", "-c", "1")
    document = program.ok("worker", "scale", "3", "--yes", "--reason", "INC-42", "--json").json
    (setting,) = document["replies"][0]["payload"]["settings"]["concurrency"].values()
    assert (setting["value"], setting["base"], setting["source"], setting["reason"]) == (3, 1, "directive", "INC-42")
    # It fetches for them as well.
    gates = [Gate(tmp_path / f"gate-{number}") for number in range(3)]
    ids = [program.send("shop.render", gate=gate.path) for gate in gates]
    for gate in gates:
        gate.wait_reached()
    found = stats(program)
    assert (found["concurrency"], found["in_flight"], len(found["pool"])) == (3, 3, 3)
    document = program.ok("worker", "scale", "1", "--yes", "--json").json
    assert document["replies"][0]["payload"]["retiring"] == 2
    (waiting,) = [program.send("shop.add", a=1)]
    for gate in gates:
        gate.open()
    for one in (*ids, waiting):
        assert program.ended(one)["state"] == "succeeded"
    eventually(lambda: children(program) == 1, 60)
    # A worker that starts later has as many.
    bravo = program.start_worker("--name", "bravo", "-c", "2")
    assert "concurrency 2" in bravo.out
    (reply,) = program.ok("worker", "stats", "-w", "bravo", "--json").json["replies"]
    assert reply["payload"]["concurrency"] == 1


def test_counted_from_what_each_worker_has(embedded: Program) -> None:
    embedded.start_worker("--name", "alpha", "-c", "1", "--max-concurrency", "2")
    embedded.start_worker("--name", "bravo", "-c", "2")
    stored = embedded.ok("worker", "scale", "+1", "-y", "--json").json["stored"]
    assert {one["workers"]: one["value"] for one in stored} == {"alpha": 2, "bravo": 3}
    done = embedded.ok("worker", "scale", "+5", "-w", "alpha")
    assert "note: worker alpha was started with --max-concurrency 2" in done.err
    stored = embedded.ok("worker", "scale", "-2", "-w", "bravo", "--json").json["stored"]
    assert [(one["workers"], one["value"]) for one in stored] == [("bravo", 1)]
    cleared = embedded.ok("worker", "scale", "default", "-y", "--json").json
    assert all(one["cleared"] for one in cleared["stored"])
    sizes = {reply["worker"]: reply["payload"]["settings"]["concurrency"][""] for reply in cleared["replies"]}
    assert {worker: (one["value"], one["source"]) for worker, one in sizes.items()} == {
        "alpha": (1, "flag"), "bravo": (2, "flag"),
    }  # fmt: skip


def test_a_worker_without_isolate_tasks_says_so(embedded: Program, tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        "from stem_kombu import Stem\napp = Stem('plain')\napp.task('plain.one')(lambda ctx: 1)\n"
    )
    embedded.start_worker("-A", "plain:app", "--name", "alpha", env={"PYTHONPATH": str(tmp_path)})
    done = embedded.ok("worker", "scale", "4", "-y")
    assert "note: worker alpha runs no isolate tasks: there is nothing to scale" in done.err
    assert embedded.run("worker", "scale", "+1", "-y").code == 4


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("0", "-y"), 2, "'0' is no number of children; give N, +N, -N or default (to stop the work itself"),
        (("-0", "-y"), 2, "'-0' is no number of children"),
        (("5000", "-y"), 2, "from 1 to 1024"),
        (("many", "-y"), 2, "'many' is no number of children"),
        (("4", "--for", "-1s", "-y"), 2, "'-1s' is not a duration"),
        (("4",), 5, "not confirmed: this sets the isolate children of every worker of namespace 'stem': 4 on workers *"),
        (("default", "-y"), 4, "no directive about isolate children is in force there"),
        (("+1", "-y"), 4, "no worker with isolate children answered"),
    ],
)  # fmt: skip
def test_wrong_input_names_what_is_wrong_and_stores_nothing(
    embedded: Program, arguments: tuple[str, ...], code: int, said: str, form: tuple[str, ...]
) -> None:
    embedded.refuses(code, said, "worker", "scale", *arguments, *form)
