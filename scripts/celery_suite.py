"""Celery's own tests with and without the line, and what differs.

    make celery-suite            all of it: an hour on two cores
    python scripts/celery_suite.py --parts unit [--version 5.7.0] [--only t/unit/app/test_control.py]
    python scripts/celery_suite.py --parts integration --brokers redis

Downloads the source distribution of the Celery that is installed, runs its unit tests for worker, app and bin, and its
integration tests with a private RabbitMQ and with a private Redis as broker (results are on Redis), with the line and without it
at the same time, each side with servers and a folder of its own. Prints each test whose outcome differs. Such a test is run
again by itself, five times with the line and without it: one that fails now and then either way is no difference. Ends with 1
where there is a difference that docs/celery.md does not explain.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.servers.process import Reaper  # noqa: E402
from tests.servers.rabbitmq import RabbitServer  # noqa: E402
from tests.servers.redis import RedisServer  # noqa: E402

UNIT = ("t/unit/worker", "t/unit/app", "t/unit/bin")
INTEGRATION = ("t/integration",)
#: It imports Azure's client, and tests nothing without an account there.
_LEFT_OUT = ("t/integration/test_backend.py",)
BROKERS = ("rabbitmq", "redis")
#: Tests whose outcome differs on purpose, with the reason; docs/celery.md has them too.
EXPLAINED = {
    f"t.unit.bin.test_worker::{test}": "the broker can't be reached: exit code 74, after 15 s, in place of 1"
    for test in ("test_cli", "test_cli_skip_checks")
} | {
    "t.unit.worker.test_worker.test_Consumer::test_receive_message_eta": "it takes the first entry of the consumer's timer for"
    " its own, and any step that uses the timer makes it fail: Stem's does, for probes",
    "t.integration.test_tasks.test_tasks::test_revoked_by_headers_simple_canvas": "it empties Celery's memory of revoked stamps,"
    " and expects that they are forgotten: with the line they are stored",
}
_AGAIN = 5


@dataclass(frozen=True, slots=True)
class Side:
    """Celery's tests with the line or without it: in a copy of their own, with servers of their own."""

    line: bool
    suite: Path
    environment: Mapping[str, str]
    folder: Path

    @property
    def name(self) -> str:
        return "line" if self.line else "plain"

    def outcomes(self, parts: Sequence[str], report: str) -> dict[str, str]:
        """Of each test how it ended."""
        path = self.folder / f"{report}.xml"
        env = {**os.environ, **self.environment, "STEM_SUITE_LINE": str(int(self.line))}
        env["PYTHONPATH"] = f"{self.suite}{os.pathsep}{ROOT}"
        options = ["-v", "-p", "no:cacheprovider", "-p", "tests.celery.suite_plugin", f"--junitxml={path}"]
        options += ["--durations=20", *(f"--ignore={name}" for name in _LEFT_OUT)]
        path.unlink(missing_ok=True)
        with path.with_suffix(".log").open("wb") as log:
            subprocess.run(
                [sys.executable, "-m", "pytest", *options, *parts],
                cwd=self.suite,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if not path.exists():
            raise SystemExit(f"the tests did not run: see {path.with_suffix('.log')}")
        found: dict[str, str] = {}
        for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314 - our own report
            name = f"{case.get('classname')}::{case.get('name')}"
            ended = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
            if ended or name not in found:  # an error after a test that passed counts
                found[name] = ended[0] if ended else "passed"
        return found


def source(version: str, folder: Path, side: str) -> Path:
    """The unpacked source distribution of that Celery."""
    archive = folder / f"celery-{version}.tar.gz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fetch = ["pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", f"celery=={version}"]
        subprocess.run([sys.executable, "-m", *fetch, "--dest", str(folder)], check=True)
    unpacked = folder / side / f"celery-{version}"
    if not unpacked.exists():
        with tarfile.open(archive) as packed:
            packed.extractall(folder / side, filter="data")
    return unpacked


@contextmanager
def sides(version: str, folder: Path, broker: str | None) -> Iterator[tuple[Side, Side]]:
    """Without the line and with it, while their servers run; ``broker`` is ``None`` for tests without servers."""
    reaper = Reaper()
    try:
        made = []
        for line in (False, True):
            environment = {} if broker is None else servers(reaper, broker)
            name = "line" if line else "plain"
            made.append(Side(line, source(version, folder, name), environment, folder / name))
        yield made[0], made[1]
    finally:
        reaper.close()


def servers(reaper: Reaper, broker: str) -> dict[str, str]:
    """What Celery's tests read of the environment. They take database 0 of the Redis for granted."""
    redis = RedisServer(reaper)
    redis.start()
    url = redis.url
    if broker == "rabbitmq":
        rabbit = RabbitServer(reaper)
        rabbit.start()
        url = rabbit.url
    return {"TEST_BROKER": url, "TEST_BACKEND": redis.url, "REDIS_HOST": redis.host, "REDIS_PORT": str(redis.port)}


def address(name: str) -> str:
    """A test of a report as pytest takes it."""
    where, _, test = name.partition("::")
    parts = where.split(".")
    at = next((number for number, part in enumerate(parts) if part.startswith("test_")), len(parts) - 1)
    return "::".join(["/".join(parts[: at + 1]) + ".py", *parts[at + 1 :], test])


def differences(both: tuple[Side, Side], parts: Sequence[str], report: str) -> list[str]:
    """Print how the two runs ended; the tests that end differently each time."""
    with ThreadPoolExecutor(len(both)) as threads:
        plain, with_it = threads.map(lambda side: side.outcomes(parts, report), both)
    print(f"{' '.join(parts)}\n  without the line: {dict(Counter(plain.values()))}")
    print(f"  with the line:    {dict(Counter(with_it.values()))}", flush=True)
    if "passed" not in plain.values():
        raise SystemExit(f"no test passed without the line: see {both[0].folder / report}.log")
    differ = sorted(name for name in plain.keys() | with_it.keys() if plain.get(name) != with_it.get(name))
    left = []
    for name in differ:
        with ThreadPoolExecutor(len(both)) as threads:
            once, again = threads.map(partial(repeated, name), both)
        kind = "now and then" if once & again else EXPLAINED.get(name, "NOT EXPLAINED")
        ends = f"{plain.get(name)}, with the line {with_it.get(name)}; by itself {once}, {again}"
        print(f"  {name}: {ends}: {kind}", flush=True)
        if kind == "NOT EXPLAINED":
            left.append(name)
    return left


def repeated(name: str, side: Side) -> set[str]:
    """How that test ends by itself."""
    return {side.outcomes([address(name)], "again").get(name, "absent") for _ in range(_AGAIN)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", default=importlib.metadata.version("celery"))
    parser.add_argument("--parts", choices=["unit", "integration", "all"], default="all")
    parser.add_argument("--brokers", nargs="+", choices=BROKERS, default=BROKERS)
    parser.add_argument("--only", nargs="+", help="these files or tests of Celery's, in place of all")
    parser.add_argument("--folder", type=Path, default=ROOT / ".tox" / "celery-sources")
    given = parser.parse_args()
    left = []
    if given.parts != "integration":
        with sides(given.version, given.folder, None) as both:
            left += differences(both, given.only or UNIT, "unit")
    for broker in given.brokers if given.parts != "unit" else ():
        print(f"broker: {broker}", flush=True)
        with sides(given.version, given.folder, broker) as both:
            left += differences(both, given.only or INTEGRATION, broker)
    print(f"not explained: {len(left)}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
