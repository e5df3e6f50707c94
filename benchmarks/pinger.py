"""``python -m benchmarks.pinger BROKER BACKEND FILE``: pings all the time; a line a ping, when it began and what it took."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from stem_kombu import ControlClient
from stem_kombu.settings import Settings


def main(broker: str, backend: str, path: str) -> None:
    with ControlClient(Settings.from_env({}, broker=broker, backend=backend)) as client, Path(path).open("a") as log:
        client.ping()
        print("ready:", flush=True)
        while True:
            began = time.monotonic()
            report = client.ping()
            assert report.complete, report
            print(began, time.monotonic() - began, file=log, flush=True)
            time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
