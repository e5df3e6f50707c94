"""A worker to be tormented: ``python -m tests.faults.process '{"name": "alpha", "broker": …}'``.

A real worker in a real process; what differs from ``stem worker start`` are leases and intervals that are short enough
for a test, and a date that may be wrong. Prints ``ready`` once it consumes.
"""

from __future__ import annotations

import json
import logging
import sys
from importlib import import_module

from kombu import Connection

from stem_kombu.settings import Settings
from stem_kombu.transports.connections import open_connection
from stem_kombu.worker.worker import Worker

#: Redis gives messages back that nobody renews for so long: soon enough for a test, and more than a busy machine takes
#: from one renewal to the next. The embedded broker notices the dead by their locks, and keeps its own.
LEASES = {"visibility_timeout": 10, "unacked_restore_interval": 0.5, "unacked_restore_throttle": 1}
#: Of brokers whose messages Stem leases itself: the URL's first word.
LEASED = ("sqla+", "filesystem:")


def main(argument: str) -> None:
    options = json.loads(argument)
    module = import_module(options.pop("app", "tests.faults.app"))
    app = module.app
    if hasattr(module, "watch"):
        module.watch()
    urls = {name: options.pop(name) for name in ("broker", "backend", "revoke_store")}
    intervals = {"sync_interval": options.pop("sync_interval"), "heartbeat_interval": options.pop("heartbeat_interval")}
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(levelname)s %(name)s: %(message)s")
    # What the worker is given is a connection; its settings may name another broker, which it must not use.
    named = {**urls, "broker": options.pop("elsewhere", urls["broker"])}
    app.configure(Settings.from_env({"STEM_CELERY_EVENTS": "off"}, **named, **intervals))
    leases = LEASES if urls["broker"].startswith("redis") else {}
    if urls["broker"].startswith(LEASED):
        leases = {"visibility_timeout": LEASES["visibility_timeout"]}
    if beside := options.pop("beside", None):
        url, given = beside
        connection = Connection(url, **given)  # as a host application opens its own
    else:
        connection = open_connection(urls["broker"], options=leases)
    Worker(app, connection=connection, **options).run(on_ready=lambda _: print("ready", flush=True))


if __name__ == "__main__":
    main(sys.argv[1])
