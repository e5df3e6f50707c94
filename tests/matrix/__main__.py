"""Measures each broker that this machine has, and writes docs/transports.md.

python -m tests.matrix [NAME …]        # or: make transports;  the names are those of tests/matrix/places.py
python -m tests.matrix --render        # only makes the page again
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import kombu

from tests.faults.fleet import Servers
from tests.matrix.page import PAGE, figures_of, keep, rendered
from tests.matrix.places import PLACES
from tests.matrix.scenario import Scenario
from tests.servers.process import ServerMissing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", choices=[[], *PLACES], metavar="NAME", help=", ".join(PLACES))
    parser.add_argument("--commands", type=int, default=100)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--only", nargs="+", default=[""], help="measure cells with this in their name, and keep the others"
    )
    parser.add_argument("--render", action="store_true")
    given = parser.parse_args()
    bad = 0
    if not given.render:
        servers = Servers()
        try:
            for name in given.names or PLACES:
                bad += measure(servers, name, given)
        finally:
            servers.close()
    PAGE.write_text(rendered(PAGE.read_text(), figures_of()))
    return 1 if bad else 0


def measure(servers: Servers, name: str, given: argparse.Namespace) -> int:
    """How many cells were not reached."""
    title, place_of = PLACES[name]
    say(title)
    with tempfile.TemporaryDirectory(prefix="stem-matrix-") as folder:
        try:
            with place_of(servers, Path(folder)) as place:
                cells = Scenario(
                    place,
                    Path(folder),
                    commands=given.commands,
                    stops=given.stops,
                    kills=given.kills,
                    say=say,
                    only=given.only,
                ).run()
        except ServerMissing as missing:
            say(f"  {missing}")
            keep(name, {"absent": str(missing)})
            return 0
    if given.only != [""]:
        cells = {**figures_of().get(name, {}).get("cells", {}), **cells}
    ran_at = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    load = f"{os.getloadavg()[2]:.0f} on {os.cpu_count()} processors"
    keep(name, {"about": place.about, "kombu": kombu.__version__, "ran_at": ran_at, "load": load, "cells": cells})
    return sum(text.startswith("no:") for text in cells.values())


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
