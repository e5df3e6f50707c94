"""Runs the targets one after the other: ``python -m fuzz [TARGET …] --seconds N``, or ``--list``.

Each gets ``N`` seconds of processor time in processes of its own (:mod:`fuzz.engine`), beginning with the corpus that is
kept. What is new in it is kept as well. Writes a JSON report; ends with 1 when something was found.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fuzz import corpus
from fuzz.targets import TARGETS, load

ROOT = Path(__file__).resolve().parents[1]
_DONE = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_PEAK = re.compile(r"stat::peak_rss_mb:\s+(\d+)")


@dataclass
class Run:
    """What one target did. ``seconds`` of processor time; ``findings`` as one line each."""

    target: str
    executions: int = 0
    seconds: float = 0.0
    peak_rss_mb: int = 0
    corpus: int = 0
    findings: list[str] = field(default_factory=list)


def fuzzed(name: str, seconds: float, work: Path) -> Run:
    """Run the target for that much processor time; its corpus is kept, and findings are left in ``work``."""
    corpus.unpack([*corpus.read(name), *load(name).seeds], work / "inputs")
    run = Run(name)
    while run.seconds < seconds - 0.5:
        code, told, spent = _engine(name, work, str(max(1, int(seconds - run.seconds))))
        run.seconds += spent
        run.executions += sum(map(int, _DONE.findall(told)))
        run.peak_rss_mb = max([run.peak_rss_mb, *map(int, _PEAK.findall(told))])
        run.findings += [line for line in told.splitlines() if line.startswith(("FINDING", "ERROR", "SUMMARY"))]
        if code != 0:
            if not run.findings:
                run.findings.append(f"the target ended with {code}: {told[-500:]}")
            break
    run.findings = list(dict.fromkeys(run.findings))
    run.corpus = kept(name, work)
    return run


def kept(name: str, work: Path) -> int:
    """Keep the inputs that make a difference, in the repository; returns how many."""
    shutil.rmtree(work / "merged", ignore_errors=True)
    code, told, _ = _engine(name, work, "--merge")
    if code != 0:
        print(told[-2000:], file=sys.stderr)
        return len(corpus.read(name))
    return corpus.write(name, corpus.packed(work / "merged"))


def _engine(name: str, work: Path, *arguments: str) -> tuple[int, str, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.engine", name, str(work), *arguments, "--quiet"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.returncode, done.stdout.decode("utf-8", "replace"), spent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="by name (default: all of them)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time for each (default: 60)")
    parser.add_argument("--work", type=Path, help="folder for inputs and findings (default: a new one)")
    parser.add_argument("--report", type=Path, help="file for the report, as JSON")
    parser.add_argument("--list", action="store_true", help="name the targets")
    given = parser.parse_args()
    if given.list:
        print("\n".join(TARGETS))
        return 0
    unknown = set(given.targets) - set(TARGETS)
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    work = given.work or Path(tempfile.mkdtemp(prefix="stem-fuzz-"))
    runs = []
    print(f"{'TARGET':<20}{'EXECUTIONS':>12}{'CPU s':>8}{'PEAK MB':>9}{'CORPUS':>8}  FINDINGS")
    for name in given.targets or TARGETS:
        run = fuzzed(name, given.seconds, work / name)
        runs.append(run)
        print(
            f"{name:<20}{run.executions:>12}{run.seconds:>8.0f}{run.peak_rss_mb:>9}{run.corpus:>8}  {len(run.findings)}"
        )
        for finding in run.findings:
            print(f"    {finding}", flush=True)
    if given.report is not None:
        written = {"schema": "stem.fuzz/1", "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        given.report.write_text(json.dumps({**written, "targets": [asdict(run) for run in runs]}, indent=1) + "\n")
    found = sum(len(run.findings) for run in runs)
    if found:
        print(f"{found} findings; inputs and tracebacks are in {work}/*/findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
