"""``make soak-resources``: the soak and the kills on each broker, with the figures as JSON; ends with 1 for a leak."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.servers.process import Reaper
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer
from tests.soak import killed, resources

#: Bytes of growth per 1,000 tasks, in the second half, above which memory is called leaking: 200,000 tasks would be 10 MB.
LEAK = 50_000
BROKERS = ("redis", "amqp", "embedded")


@contextmanager
def broker_of(kind: str, folder: Path) -> Iterator[tuple[str, RabbitServer | None]]:
    """A private broker of that kind, and the server where it is RabbitMQ."""
    with ExitStack() as stack:
        if kind == "embedded":
            yield f"sqlite://{folder / 'broker.db'}", None
            return
        reaper = Reaper()
        stack.callback(reaper.close)
        if kind == "redis":
            redis = RedisServer(reaper)
            stack.callback(redis.close)
            redis.start()
            yield redis.new_database(), None
            return
        rabbitmq = RabbitServer(reaper)
        stack.callback(rabbitmq.close)
        rabbitmq.start()
        yield rabbitmq.new_vhost(), rabbitmq


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--broker", action="append", choices=BROKERS, help="only this one; may be repeated")
    parser.add_argument("--tasks", type=int, default=200_000)
    parser.add_argument("--commands", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--within", type=float, help="begin no round later than so many seconds after the first")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file for the figures (default: stdout)")
    given = parser.parse_args()
    figures: dict[str, Any] = {"schema": "stem.soak-resources/1", "soaks": [], "kills": []}
    leaks: list[str] = []
    for kind in given.broker or BROKERS:
        with tempfile.TemporaryDirectory(prefix="stem-soak-") as name:
            folder = Path(name)
            with broker_of(kind, folder) as (url, rabbitmq):
                if given.tasks:
                    soak = resources.run(
                        url, folder, tasks=given.tasks, commands=given.commands, rounds=given.rounds,
                        warm_up=(min(5000, given.tasks), min(500, given.commands)), fill=True, within=given.within,
                        rabbitmq=rabbitmq,
                        tell=lambda text, kind=kind: print(f"{kind}: {text}", file=sys.stderr, flush=True),  # type: ignore[misc]
                    )  # fmt: skip
                    soak["growth_bytes_per_1000_tasks"] = round(resources.growth(soak))
                    figures["soaks"].append(soak)
                    leaks += [f"{kind}: {text}" for text in soak["left"]]
                    if soak["growth_bytes_per_1000_tasks"] > LEAK:
                        leaks.append(
                            f"{kind}: memory grows by {soak['growth_bytes_per_1000_tasks']} bytes per 1,000 tasks"
                        )
                    _save(given.out, figures)
            (folder / "kills").mkdir()
            with broker_of(kind, folder / "kills") as (url, rabbitmq):
                if given.kills:
                    kills = killed.run(url, folder / "kills", kills=given.kills, seed=given.seed, rabbitmq=rabbitmq)
                    figures["kills"].append(kills)
                    leaks += [f"{kind}, after kills: {text}" for text in kills["left"]]
        figures["leaks"] = leaks
        _save(given.out, figures)
    if given.out is None:
        print(json.dumps(figures, indent=1))
    for leak in leaks:
        print(f"LEFT {leak}", file=sys.stderr)
    return 1 if leaks else 0


def _save(out: Path | None, figures: dict[str, Any]) -> None:
    if out is not None:
        out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
