"""The figures of fuzzing and of the soak for ``docs/reliability.md``: ``python -m fuzz.figures [--add] REPORT…``.

Takes what ``python -m fuzz --report FILE`` and ``python -m tests.soak --out FILE`` wrote, in any number of files, and
leaves ``docs/reliability/fuzz.json`` and ``docs/reliability/soak-resources.json``. What the page has of targets and
brokers that no report speaks of stays there; with ``--add`` executions are added to those that it has.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.faults.report import FOLDER, Figures


def fuzzing(runs: list[dict[str, Any]]) -> Figures:
    """Executions of each target; a finding of a run is left until a later run of the target has none."""
    counts: dict[str, int | float | str] = {}
    left: dict[str, list[str]] = {}
    spent: dict[str, float] = {}
    for run in runs:
        name = run["target"]
        for what, many in (("executions", run["executions"]), ("seconds of a processor", round(run["seconds"]))):
            counts[f"{name}: {what}"] = int(counts.get(f"{name}: {what}", 0)) + many
        spent[name] = spent.get(name, 0.0) + run["seconds"]
        left[name] = [f"{name}: {text[:120]}" for text in run["findings"]]
    return Figures(
        "fuzz",
        "Fuzzing of every door",
        "A coverage-guided fuzzer sends data to each function that decodes input from outside. Such a function may\n"
        "raise only the exception that it documents, and what it accepts must come back unchanged when it is encoded\n"
        "again.",
        f"make fuzz SECONDS={round(min(spent.values(), default=0))}",
        order=60,
        seconds=round(sum(run["seconds"] for run in runs)),
        counts=counts,
        left=[text for texts in left.values() for text in texts],
    )


def soaking(soaks: list[dict[str, Any]], kills: list[dict[str, Any]], leaks: list[str]) -> Figures:
    counts: dict[str, int | float | str] = {}
    for soak in soaks:
        kind = soak["broker"]
        counts[f"Tasks, {kind}"], counts[f"Commands, {kind}"] = soak["tasks"], soak["commands"]
        for name, factor in (("rss", 1e-6), ("descriptors", 1), ("threads", 1)):
            unit = " (MB)" if name == "rss" else ""
            pair = (f"{soak[when]['worker'][name] * factor:.0f}" for when in ("before", "after"))
            counts[f"Worker's {name}{unit} before and after, {kind}"] = ", ".join(pair)
        same = "the same" if soak["before"]["broker"] == soak["after"]["broker"] else "not the same"
        counts[f"Tasks of the warm-up, {kind}"] = soak["warm_up_tasks"]
        counts[f"Worker's rss (MB) before the warm-up, {kind}"] = f"{soak['rss_at_birth'] * 1e-6:.0f}"
        curve = [sample["rss"] for sample in soak["after_each_round"]]
        quarters = (curve[len(curve) * part // 4 - 1] * 1e-6 for part in range(1, 5))
        counts[f"Worker's rss (MB) after each quarter, {kind}"] = ", ".join(f"{rss:.1f}" for rss in quarters)
        if "blocks" in soak["after_each_round"][0]:
            held = [sample["blocks"] for sample in soak["after_each_round"]]
            counts[f"Memory blocks of Python after each quarter, {kind}"] = ", ".join(
                f"{held[len(held) * part // 4 - 1]:,}" for part in range(1, 5)
            )
        counts[f"Growth of rss (kB) per 1,000 tasks, {kind}"] = f"{soak['growth_bytes_per_1000_tasks'] / 1000:.1f}"
        counts[f"Queues, keys and connections before and after, {kind}"] = same
    tasks, commands = (max((soak[name] for soak in soaks), default=0) for name in ("tasks", "commands"))
    bound = ", as many as fit into the time given" if any(soak["tasks"] < tasks for soak in soaks) else ""
    for one in kills:
        counts[f"Clients killed in mid-command, {one['broker']}"] = one["kills"]
        counts[f"Left of them, {one['broker']}"] = len(one["left"])
    return Figures(
        "soak-resources",
        "What is left after a great deal of work",
        "One worker of the real command line runs tasks (inline, isolated, failing) and commands (ping, inspect, stats,\n"
        "revoke). Its size, and that of its broker, is compared with the size before. It is warmed up until each\n"
        "command that it remembers has expired once (a minute) and SQLite's caches are full (2 MB each). Growth is that\n"
        "of the second half of the run after that. Above 50 kB per 1,000 tasks it counts as a leak.\n\n"
        "Not all growth is a leak. A worker remembers the commands of a minute with their answers, so it holds more\n"
        "while a machine lets it run faster. The resident size includes gaps between Python's memory blocks, so these\n"
        "are counted as well. At the end clients are killed with SIGKILL.",
        f"make soak-resources TASKS={tasks} COMMANDS={commands}{bound}" if soaks else "make soak-resources TASKS=0",
        order=70,
        seconds=round(sum(one["seconds"] for one in (*soaks, *kills))),
        counts=counts,
        left=leaks,
    )


def with_what_was_there(figures: Figures) -> Figures:
    """These figures, and those of an earlier run for what this one did not measure."""
    path = FOLDER / f"{figures.suite}.json"
    if not path.exists():
        return figures
    earlier = Figures.read(path)
    added = [name for name in earlier.counts if name not in figures.counts]
    counts = {**{name: earlier.counts[name] for name in added}, **figures.counts}
    if not added:
        return figures
    # Where nothing was measured again, the earlier run is a part of what the page tells, and so is its time.
    seconds = figures.seconds + (earlier.seconds if len(added) == len(earlier.counts) else 0)
    return replace(figures, counts=counts, seconds=seconds, command=f"{earlier.command}, then {figures.command}")


def main(paths: list[str], *, add: bool = False) -> None:
    reports = [json.loads(Path(path).read_text()) for path in paths]
    runs = [run for report in reports for run in report.get("targets", [])]
    soaks = [soak for report in reports for soak in report.get("soaks", [])]
    kills = [one for report in reports for one in report.get("kills", [])]
    if runs:
        path = FOLDER / "fuzz.json"
        figures = fuzzing(runs)
        if add and path.exists():
            figures = figures.after(Figures.read(path))
            seconds = [int(many) for name, many in figures.counts.items() if name.endswith("seconds of a processor")]
            figures = replace(figures, command=f"make fuzz SECONDS={min(seconds)}, in several runs")
        else:
            figures = with_what_was_there(figures)
        print(figures.write())
    if soaks or kills:
        leaks = [text for report in reports for text in report.get("leaks", [])]
        print(with_what_was_there(soaking(soaks, kills, leaks)).write())


if __name__ == "__main__":
    main([path for path in sys.argv[1:] if path != "--add"], add="--add" in sys.argv[1:])
