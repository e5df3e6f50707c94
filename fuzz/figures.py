"""The figures of fuzzing and of the soak for ``docs/reliability.md``: ``python -m fuzz.figures REPORT…``.

Takes what ``python -m fuzz --report FILE`` and ``python -m tests.soak --out FILE`` wrote, in any number of files, and
leaves ``docs/reliability/fuzz.json`` and ``docs/reliability/soak-resources.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.faults.report import Figures


def fuzzing(runs: list[dict[str, Any]]) -> Figures:
    """Executions of each target; a finding of a run is left until a later run of the target has none."""
    counts: dict[str, int | float | str] = {}
    left: dict[str, list[str]] = {}
    for run in runs:
        name = run["target"]
        counts[f"{name}: executions"] = int(counts.get(f"{name}: executions", 0)) + run["executions"]
        left[name] = [f"{name}: {text[:120]}" for text in run["findings"]]
    return Figures(
        "fuzz",
        "Fuzzing of every door",
        "A coverage-guided fuzzer on each door through which something from outside comes in. A target may raise nothing:\n"
        "a refusal must be the exception that the door documents, and what is let in must come back as itself.",
        "make fuzz SECONDS=300",
        order=60,
        seconds=round(sum(run["seconds"] for run in runs)),
        counts=counts,
        left=[text for texts in left.values() for text in texts],
    )


def soaking(soaks: list[dict[str, Any]], kills: list[dict[str, Any]]) -> Figures:
    counts: dict[str, int | float | str] = {}
    for soak in soaks:
        kind = soak["broker"]
        counts[f"Tasks, {kind}"], counts[f"Commands, {kind}"] = soak["tasks"], soak["commands"]
        for name, factor in (("rss", 1e-6), ("descriptors", 1), ("threads", 1)):
            unit = " (MB)" if name == "rss" else ""
            pair = (f"{soak[when]['worker'][name] * factor:.0f}" for when in ("before", "after"))
            counts[f"Worker's {name}{unit} before and after, {kind}"] = ", ".join(pair)
        same = "the same" if soak["before"]["broker"] == soak["after"]["broker"] else "not the same"
        counts[f"Queues, keys and connections before and after, {kind}"] = same
    tasks, commands = (min((soak[name] for soak in soaks), default=0) for name in ("tasks", "commands"))
    for one in kills:
        counts[f"Clients killed in mid-command, {one['broker']}"] = one["kills"]
        counts[f"Left of them, {one['broker']}"] = len(one["left"])
    return Figures(
        "soak-resources",
        "What is left after a great deal of work",
        "One worker of the real command line carries out tasks (inline, isolated, failing) and commands (ping, inspect, stats,\n"
        "revoke); what it and the broker hold is compared with what they held before. Then clients are killed with SIGKILL.",
        f"make soak-resources TASKS={tasks} COMMANDS={commands}" if soaks else "make soak-resources TASKS=0",
        order=70,
        seconds=round(sum(one["seconds"] for one in (*soaks, *kills))),
        counts=counts,
        left=[f"{one['broker']}: {text}" for one in (*soaks, *kills) for text in one["left"]],
    )


def main(paths: list[str]) -> None:
    reports = [json.loads(Path(path).read_text()) for path in paths]
    runs = [run for report in reports for run in report.get("targets", [])]
    soaks = [soak for report in reports for soak in report.get("soaks", [])]
    kills = [one for report in reports for one in report.get("kills", [])]
    if runs:
        print(fuzzing(runs).write())
    if soaks or kills:
        print(soaking(soaks, kills).write())


if __name__ == "__main__":
    main(sys.argv[1:])
