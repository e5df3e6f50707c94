"""``stem worker autoscale``: children by the work that waits, within a range."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.autoscale import Autoscale
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.directives import DirectiveClient
from stem_kombu.settings import Settings
from stem_kombu.testing.gates import Gate
from tests.cli.program import Program
from tests.waiting import eventually

QUICK = ("--up-after", "1s", "--down-after", "3s")


def stats(program: Program, worker: str = "alpha") -> Any:
    (reply,) = program.ok("worker", "stats", "-w", worker, "--json").json["replies"]
    return reply["payload"]


def setting(payload: Any) -> Any:
    return payload["settings"]["concurrency"][""]


@pytest.mark.parametrize("kind", ["embedded", "redis", "amqp"])
def test_g25_children_come_with_the_work_and_go_after_it(
    kind: str, program_on: Callable[[str], Program], tmp_path: Path
) -> None:
    program = program_on(kind)
    program.start_worker("--name", "alpha", "-c", "1")
    document = program.ok("worker", "autoscale", "1,3", *QUICK, "--yes", "--reason", "INC-42", "--json").json
    (reply,) = document["replies"]
    assert setting(reply["payload"])["value"] == {
        "min": 1, "max": 3, "backlog_per_child": 1, "up_after": 1, "down_after": 3, "children": 1,
    }  # fmt: skip
    gates = [Gate(tmp_path / f"gate-{number}") for number in range(4)]
    ids = [program.send("shop.render", gate=gate.path) for gate in gates]
    eventually(lambda: sum(gate.reached() is not None for gate in gates) == 3, 90)
    found = stats(program)
    assert (found["concurrency"], found["in_flight"], setting(found)["value"]["children"]) == (3, 3, 3)
    assert (setting(found)["base"], setting(found)["source"], setting(found)["reason"]) == (1, "directive", "INC-42")
    for gate in gates:
        gate.open()
    for one in ids:
        record = program.ended(one)
        assert (record["state"], record["attempt"]) == ("succeeded", 1)
    eventually(lambda: len(stats(program)["pool"]) == 1, 90)
    # It shows where an operator looks.
    assert (
        "workers * have had 1 to 3 isolate children by the work that waits, for" in program.ok("worker", "status").err
    )
    assert "1 to 3 by work" in program.ok("directives", "list").out


def test_g24_scale_and_autoscale_replace_each_other_and_off_ends_the_latter_only(embedded: Program) -> None:
    embedded.start_worker("--name", "alpha", "-c", "2", "--max-concurrency", "4")
    embedded.ok("worker", "scale", "3", "-y")
    assert embedded.run("worker", "autoscale", "off", "-y").code == 4
    done = embedded.ok("worker", "autoscale", "1,8", "-y")
    assert "autoscaled: 1 to 8 isolate children on workers *, version" in done.out
    assert "note: worker alpha was started with --max-concurrency, which is a limit" in done.err
    assert (stats(embedded)["concurrency"], setting(stats(embedded))["clamped"]) == (3, True)
    assert (
        setting(embedded.ok("worker", "scale", "+1", "-w", "alpha", "--json").json["replies"][0]["payload"])["value"]
        == 4
    )
    embedded.ok("worker", "scale", "default", "-w", "alpha")
    cleared = embedded.ok("worker", "autoscale", "off", "-y", "--json").json
    assert [one["cleared"] for one in cleared["stored"]] == [True]
    found = setting(stats(embedded))
    assert (found["value"], found["source"]) == (2, "flag")
    # A worker that starts later obeys, until the end.
    embedded.ok("worker", "autoscale", "3,5", "--for", "1h", "-w", "bra*")
    embedded.start_worker("--name", "bravo", "-c", "1")
    assert stats(embedded, "bravo")["concurrency"] == 3
    actions = [entry["action"] for entry in embedded.ok("audit", "list", "--json").json["entries"]]
    assert actions.count("autoscale") >= 3


def test_a_program_asks_for_it_as_well(embedded: Program) -> None:
    embedded.start_worker("--name", "alpha", "-c", "1")
    with ControlClient(Settings.from_env(embedded.variables)) as client:
        directives = DirectiveClient(client)
        report = directives.autoscale(Autoscale(2, 4, backlog=10), workers=["alpha"], timeout=30.0)
        assert (report.stored[0].value, report.replies[0].worker) == (Autoscale(2, 4, backlog=10).value(), "alpha")
        assert directives.autoscale(None, timeout=30.0).stored[0].cleared
        assert directives.autoscale(None).stored == ()


def test_a_worker_without_isolate_tasks_says_so(embedded: Program, tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        "from stem_kombu import Stem\napp = Stem('plain')\napp.task('plain.one')(lambda ctx: 1)\n"
    )
    embedded.start_worker("-A", "plain:app", "--name", "alpha", env={"PYTHONPATH": str(tmp_path)})
    done = embedded.ok("worker", "autoscale", "1,4", "-y")
    assert "note: worker alpha runs no isolate tasks: there is nothing to scale" in done.err


def test_a_dry_run_stores_nothing(embedded: Program) -> None:
    done = embedded.ok("worker", "autoscale", "1,8", "--dry-run")
    assert "would set isolate children: 1 to 8 by the work that waits (more above 1 waiting a child for 5s" in done.out
    document = embedded.ok("worker", "autoscale", "1,8", "-w", "a*", "--dry-run", "--json").json
    assert document["stores"] == [{"workers": "a*", "value": Autoscale(1, 8).value()}]
    assert embedded.ok("directives", "list", "--json").json["directives"] == []


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("0,8", "-y"), 2, "from 0 to 8 children is no range (give 1 <= MIN <= MAX <= 1024"),
        (("8,1", "-y"), 2, "from 8 to 1 children is no range"),
        (("8", "-y"), 2, "'8' is no range of children (accepted: MIN,MAX, for example 1,8, or off)"),
        (("1,8", "--backlog-per-child", "0", "-y"), 2, "a backlog of 0 for each child"),
        (("1,8", "--up-after", "-1s", "-y"), 2, "'-1s' is not a duration"),
        (("1,8", "--for", "-1s", "-y"), 2, "'-1s' is not a duration"),
        (("1,8", "--down-after", "2d", "-y"), 2, "down_after: 172800 s is not from 0 s to 1 d"),
        (("1,8",), 5, "not confirmed: this sets the isolate children of every worker of namespace 'stem': 1 to 8 by"),
        (("off", "-y"), 4, "no autoscale is in force there; nothing was stored"),
    ],
)  # fmt: skip
def test_g36_wrong_input_names_what_is_wrong_and_stores_nothing(
    embedded: Program, arguments: tuple[str, ...], code: int, said: str, form: tuple[str, ...]
) -> None:
    embedded.refuses(code, said, "worker", "autoscale", *arguments, *form)
