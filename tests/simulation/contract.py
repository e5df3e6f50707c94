"""The contract of transports over the simulated broker, as a program: ``python -m tests.simulation.contract results.json``.

Each test runs whole, its fixtures included, in a simulated thread of a world of its own, so that a wait costs nothing; and once
for each seed, which decides which thread is quicker and how long everything takes. The file maps each test, as
``class::method``, to its worst outcome and what there is to say of it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

#: Each test runs with so many seeds.
SEEDS = 12
#: Simulated seconds after which a test that has not ended counts as one that hangs.
_LONGEST = 600.0
_CASES = Path(__file__).with_name("contract_cases.py")
_BY_GRAVITY = ("passed", "skipped", "failed")


class InASimulatedThread:
    """Runs each test in a world of its own and notes what came of it."""

    def __init__(self) -> None:
        #: By ``class::method``: outcome and text.
        self.results: dict[str, tuple[str, str]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> bool:
        from _pytest.runner import runtestprotocol

        from tests.faults.history import History
        from tests.simulation import doubles, threads
        from tests.simulation.kernel import KERNEL
        from tests.simulation.services import Broker, Net

        KERNEL.reset(item.callspec.params["seed"])
        threads.FDS.reset()
        doubles.enter(Broker(Net(), History(), leases=item.cls.leases))
        KERNEL.spawn(KERNEL.process("contract"), lambda: runtestprotocol(item, nextitem=nextitem))
        KERNEL.run(_LONGEST)
        KERNEL.finish()  # ends what hangs, as a failure of the test
        for thread, error in KERNEL.failures:
            self._note(item.nodeid, "failed", f"{thread}: {error!r}")
        return True

    def pytest_runtest_logreport(self, report: Any) -> None:
        text = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longreprtext
        self._note(report.nodeid, report.outcome, text)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._note(report.nodeid, "failed", report.longreprtext)

    def _note(self, node: str, outcome: str, text: str) -> None:
        name, _, seed = node.partition("::")[2].partition("[")
        held, _ = self.results.get(name, ("passed", ""))
        if name not in self.results or _BY_GRAVITY.index(outcome) > _BY_GRAVITY.index(held):
            self.results[name] = (outcome, f"seed {seed.rstrip(']')}: {text}" if outcome == "failed" else text)


def main() -> int:
    if os.environ.get("PYTHONHASHSEED") != "0":
        # As in the simulation itself: the order of sets is the same each time.
        again = [sys.executable, "-m", "tests.simulation.contract", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606 - this very program
    from tests.simulation import ports

    ports.install()
    from tests.simulation import fleet

    fleet.wire()
    simulated = InASimulatedThread()
    without = ["-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    pytest.main([str(_CASES), "--noconftest", "-q", *without], plugins=[simulated])
    Path(sys.argv[1]).write_text(json.dumps(simulated.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
