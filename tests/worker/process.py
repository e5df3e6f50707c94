"""A worker in a process of its own, for tests that kill it: ``python -m tests.worker.process '{"name": "alpha", …}'``.

Prints ``ready`` once it consumes.
"""

from __future__ import annotations

import json
import sys

from stem_kombu.settings import Settings
from stem_kombu.transports.connections import open_connection
from stem_kombu.worker.worker import Worker
from tests.worker import apps

#: Redis and the embedded broker give messages back that nobody renews: soon enough for a test.
SHORT_LEASES = {"visibility_timeout": 1.5, "unacked_restore_interval": 0.2, "unacked_restore_throttle": 1}


def main(argument: str) -> None:
    options = json.loads(argument)
    broker, backend, leases = options.pop("broker"), options.pop("backend"), options.pop("short_leases", False)
    apps.app.configure(Settings.from_env({}, broker=broker, backend=backend, sync_interval=0.3, heartbeat_interval=0.5))
    connection = open_connection(broker, options=SHORT_LEASES) if leases else None
    Worker(apps.app, connection=connection, **options).run(on_ready=lambda _: print("ready", flush=True))


if __name__ == "__main__":
    main(sys.argv[1])
