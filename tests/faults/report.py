"""The report: each suite leaves its figures as JSON in ``docs/reliability/``, and ``docs/reliability.md`` is made of them.

    python -m tests.faults.report          # make docs/reliability.md again

A suite writes ``docs/reliability/NAME.json`` whole with :meth:`Figures.write`, as one run saw them. What was found and
changed outlives the runs: ``docs/reliability/findings/NAME.json`` is a list that people add to, with what a
:class:`Finding` says; it is the only part that isn't measured.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
FOLDER = DOCS / "reliability"

PREAMBLE = """\
% Made by `python -m tests.faults.report` from the figures in docs/reliability/. Changes here are lost.

# Reliability

The promises of [the guarantees](guarantees.md) are judged by a checker (`tests/faults/promises/`): a pure function that
takes the history of a run, event by event, and names the first promise that it shows to be violated. Every suite below
feeds that checker, or says what else it asserts. The figures are written by the suites themselves.
"""


@dataclass(frozen=True)
class Target:
    """What was to be reached: ``bad`` of ``trials`` here; ``peer`` tells the figure to beat, as text; ``commit`` is the one
    that was measured."""

    what: str
    bad: int
    trials: int
    least: int
    peer: str = ""
    commit: str = ""

    @property
    def met(self) -> bool:
        return self.bad == 0 and self.trials >= self.least


@dataclass(frozen=True)
class Finding:
    """A violation that a suite found: which promise, what happened, what was changed in the design, which test stays."""

    promise: str
    found: str
    changed: str
    test: str = ""


@dataclass
class Figures:
    """One run of one suite. ``counts`` and ``faults`` are shown as tables in their order; ``left`` are the violations that
    it found and that stand: the goal is none."""

    suite: str
    title: str
    #: A paragraph: what is run, and against what.
    about: str
    #: How to repeat it, as a command line.
    command: str
    order: int = 50
    seconds: float = 0.0
    counts: dict[str, int | float | str] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    #: Times that each promise was judged in this run: ``{"G3": 1200}``.
    promises: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    ran_at: str = field(default_factory=lambda: datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"))
    machine: str = field(default_factory=lambda: machine())

    def write(self, folder: Path = FOLDER) -> Path:
        """Keep the figures; what an earlier run of the suite left is replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.suite}.json"
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")
        return path

    def after(self, earlier: Figures) -> Figures:
        """These figures with those of an earlier run of the same suite added: counts, faults, times judged, seconds."""

        def added(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
            names = dict.fromkeys((*theirs, *mine))
            return {
                name: mine[name] + theirs[name]
                if isinstance(mine.get(name), int) and isinstance(theirs.get(name), int)
                else mine.get(name, theirs.get(name))
                for name in names
            }

        return replace(
            self,
            counts=added(self.counts, earlier.counts),
            faults=dict(sorted(added(self.faults, earlier.faults).items())),
            promises=added(self.promises, earlier.promises),
            seconds=self.seconds + earlier.seconds,
            left=[*earlier.left, *self.left],
        )

    @classmethod
    def read(cls, path: Path) -> Figures:
        facts: dict[str, Any] = json.loads(path.read_text())
        facts["targets"] = [Target(**target) for target in facts["targets"]]
        return cls(**facts)


def machine() -> str:
    """``2 cores, Linux, Python 3.11.2``."""
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def render(folder: Path = FOLDER) -> str:
    """The page."""
    suites = sorted((Figures.read(path) for path in folder.glob("*.json")), key=lambda f: (f.order, f.suite))
    findings = {
        path.stem: [Finding(**facts) for facts in json.loads(path.read_text())]
        for path in sorted((folder / "findings").glob("*.json"))
    }
    parts = [PREAMBLE]
    targets = [target for figures in suites for target in figures.targets]
    if targets:
        parts.append(
            "## The targets\n\n" + _table(["Target", "Elsewhere", "Here", "Met", "Commit"], _target_rows(targets))
        )
    total = sum(len(found) for found in findings.values())
    left = [text for figures in suites for text in figures.left]
    parts.append(
        f"Violations found and mended so far: {total}. Violations left: {len(left) or 'none'}.\n"
        + "".join(f"\n- {text}" for text in left)
        + ("\n" if left else "")
    )
    parts += [_suite(figures) for figures in suites]
    if total:
        rows = [
            [name, found.promise, found.found, found.changed, f"`{found.test}`" if found.test else ""]
            for name, some in findings.items()
            for found in some
        ]
        parts.append(
            "## What was found, and what was changed\n\n"
            + _table(["By", "Promise", "Found", "Changed", "Test that stays"], rows)
        )
    return "\n".join(parts)


def _target_rows(targets: Iterable[Target]) -> list[list[object]]:
    return [
        [
            target.what,
            target.peer or "–",
            f"{target.bad:,} of {target.trials:,}",
            "yes" if target.met else "**no**",
            target.commit or "–",
        ]
        for target in targets
    ]


def _suite(figures: Figures) -> str:
    lines = [f"## {figures.title}", "", figures.about, "", f"`{figures.command}`, {figures.ran_at}, {figures.machine}."]
    if figures.seconds:
        lines[-1] = lines[-1][:-1] + f", {figures.seconds:,.0f} s."
    for heads, facts in (
        (["Figure", "Value"], figures.counts),
        (["Fault", "Times"], figures.faults),
        (["Promise", "Times judged"], figures.promises),
    ):
        if facts:
            lines += ["", _table(heads, _rows(facts)).rstrip()]
    return "\n".join(lines) + "\n"


def _rows(facts: Mapping[str, object]) -> list[list[object]]:
    return [[name, f"{value:,}" if isinstance(value, int | float) else value] for name, value in facts.items()]


def _table(heads: list[str], rows: Iterable[Iterable[object]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(str(cell).replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def commit() -> str:
    """The commit that is being judged, for who wants to repeat it exactly; empty outside of a checkout."""
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=DOCS, capture_output=True, text=True, check=False
    )
    return told.stdout.strip()


def main() -> None:
    page = DOCS / "reliability.md"
    page.write_text(render())
    print(page, file=sys.stderr)


if __name__ == "__main__":
    main()
