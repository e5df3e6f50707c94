"""Next attempts of tasks that came by every kind of exchange: how many are lost, or come back as another message."""

from __future__ import annotations

import json
import random
import signal
from datetime import timedelta
from typing import Any

import kombu

from stem_kombu.clock import SYSTEM, isoformat
from stem_kombu.transports.connections import connect, open_connection
from stem_kombu.transports.queues import declared_task_queue
from tests.faults.report import Target
from tests.faults.routed import NOTED
from tests.waiting import eventually

QUEUE = "feeds"
KEYS = {"direct": "order.created", "topic": "feed.import.eu", "fanout": "", "headers": ""}
BINDINGS = {**KEYS, "topic": "feed.#"}
KINDS = {"Redis": ("default", "direct", "topic"), "RabbitMQ": ("default", *KEYS)}
WAYS = ("retry", "raise", "eta")
#: Tasks that are sent together, after which the worker may be killed.
TOGETHER = 10


def open_feeds(url: str, kinds: tuple[str, ...]) -> Any:
    """A connection to the broker, where the queue is bound to an exchange of each kind."""
    connection: Any = connect(open_connection(url))
    channel = connection.default_channel
    queue = declared_task_queue(connection, QUEUE, max_priority=9)
    for kind in kinds[1:]:
        exchange = kombu.Exchange(f"feeds-{kind}", type=kind, durable=True)(channel)
        exchange.declare()
        arguments = {"x-match": "all", "shop": "yes"} if kind == "headers" else None
        queue(channel).bind_to(exchange.name, routing_key=BINDINGS[kind], arguments=arguments)
    return connection


def resent(here: Any, broker: str, trials: int, patience: float) -> Target:
    """Of ``trials`` tasks, those that did not end, or whose next message came to another queue or with other headers and
    properties. Every other ten the worker is killed, and it works beside a connection that its settings do not name."""
    rng = random.Random(trials)
    kinds = KINDS[broker]
    connection = open_feeds(here.urls["broker"], kinds)
    producer = kombu.Producer(connection.default_channel, auto_declare=False)
    options = {
        "app": "tests.faults.routed",
        "queues": [QUEUE],
        "elsewhere": f"sqlite:///{here.folder / 'elsewhere.db'}",
    }
    worker = here.start_worker("alpha", **options)
    sent: dict[str, dict[str, Any]] = {}
    bad: set[str] = set()
    while len(sent) < trials:
        batch = [f"routed-{len(sent) + n}" for n in range(min(TOGETHER, trials - len(sent)))]
        for task_id in batch:
            kind, way = rng.choice(kinds), rng.choice(WAYS)
            said = {"priority": rng.randrange(10), "reply_to": f"answers-{task_id}", "correlation_id": f"own-{task_id}"}
            sent[task_id] = {**said, "queue": QUEUE, "tenant": task_id}
            headers = {"id": task_id, "task": "again", "retries": 0, "tenant": task_id, "marks": str(here.marks)}
            if kind == "headers":
                headers["shop"] = "yes"
            if way == "eta":
                headers["eta"] = isoformat(SYSTEM.utcnow() + timedelta(seconds=1))
            exchange, key = ("", QUEUE) if kind == "default" else (f"feeds-{kind}", KEYS[kind])
            producer.publish([[way], {}, {}], exchange=exchange, routing_key=key, headers=headers, retry=False, **said)
        if rng.random() < 0.5:
            here.end(worker, signal.SIGKILL)
            worker = here.start_worker("alpha", **options)
        for task_id in batch:
            record = eventually(
                lambda each=task_id: (held := here.app.backend.get(each)) and held.state.is_terminal and held,  # type: ignore[misc]
                patience,
                f"{task_id} has not ended",
            )
            if record.state.value != "succeeded" or record.queue != QUEUE or record.result != QUEUE:
                bad.add(task_id)
    for line in here.marks.read_text().splitlines():
        came = json.loads(line)
        if {name: came[name] for name in (*NOTED, "queue", "tenant")} != sent[came["id"]]:
            bad.add(came["id"])
    connection.release()
    assert not (here.folder / "elsewhere.db").exists(), "something was sent to the broker of the settings"
    what = f"next attempts lost, or in another queue or form than they came in, {broker}"
    return Target(what, len(bad), len(sent), 200, "Stem 0.1.0: all that an exchange had routed")
