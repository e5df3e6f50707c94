"""The page of figures is made of what the suites wrote, and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.report import DOCS, Figures, Target, render


def figures(**facts: object) -> Figures:
    return Figures("demo", "A demonstration", "What is run.", "make demo", **facts)  # type: ignore[arg-type]


def test_the_page_is_what_the_figures_make_of_it() -> None:
    hint = "run `python -m tests.faults.report` and commit what it made"
    assert (DOCS / "reliability.md").read_text() == render(), hint


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = figures(counts={"tasks": 20_000}, faults={"SIGKILL": 3}, targets=[Target("lost", 0, 200, 200, "5 of 5")])
    assert Figures.read(written.write(tmp_path)) == written


def test_a_page_tells_targets_faults_and_what_is_left(tmp_path: Path) -> None:
    figures(
        counts={"tasks": 20_000},
        faults={"SIGKILL of a worker": 3},
        targets=[Target("lost messages", 0, 200, 200, "5 of 20,000", "abc1234"), Target("stuck pools", 0, 10, 200)],
        left=["G3: it ran (seed 7)"],
    ).write(tmp_path)
    (tmp_path / "findings").mkdir()
    (tmp_path / "findings" / "demo.json").write_text(
        json.dumps([{"promise": "G3", "found": "this", "changed": "that", "test": "test_g3_this"}])
    )
    page = render(tmp_path)
    assert "| lost messages | 5 of 20,000 | 0 of 200 | yes | abc1234 |" in page
    assert "| stuck pools | – | 0 of 10 | **no** | – |" in page  # too few trials prove nothing
    assert "| SIGKILL of a worker | 3 |" in page
    assert "| tasks | 20,000 |" in page
    assert "Violations found and mended so far: 1. Violations left: 1.\n\n- G3: it ran (seed 7)" in page
    assert "| demo | G3 | this | that | `test_g3_this` |" in page


def test_the_figures_of_several_runs_are_added() -> None:
    first = figures(counts={"tasks": 2, "Commit": "a"}, faults={"SIGKILL": 1}, seconds=1.0, left=["G1"])
    second = figures(counts={"tasks": 3, "Commit": "b"}, faults={"SIGSTOP": 4}, promises={"G3": 5}, seconds=2.0)
    both = second.after(first)
    assert both.counts == {"tasks": 5, "Commit": "b"}
    assert both.faults == {"SIGKILL": 1, "SIGSTOP": 4}
    assert (both.promises, both.seconds, both.left) == ({"G3": 5}, 3.0, ["G1"])
