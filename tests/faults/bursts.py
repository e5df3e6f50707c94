"""Workers and children that are killed under bursts of tasks and other messages: what of these is missing afterwards."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import kombu
import kombu.pools

from stem_kombu.outcome import TaskState
from stem_kombu.task import TaskMessage
from stem_kombu.transports.connections import connect, open_connection
from stem_kombu.transports.names import unreadable_queue_name
from tests.faults import bursting
from tests.faults.bursting_celery import NAMES, make
from tests.faults.fleet import ROOT, WorkerProcess
from tests.faults.report import Target
from tests.waiting import eventually

WORKERS = ("alpha", "bravo")
#: Messages of a burst: tasks, tasks whose body can't be read, and messages of another application.
TASKS, TORN, FOREIGN = 48, 2, 10
TOGETHER = TASKS + TORN + FOREIGN
LETTERS = "bursts-letters"
OPTIONS: dict[str, Any] = {
    "app": "tests.faults.bursting",
    "queues": list(bursting.QUEUES),
    "concurrency": 2,
    "inline_slots": 4,
}
#: What another application puts into the queue, by what it says of the content.
BODIES: tuple[Callable[[str], dict[str, Any]], ...] = (
    lambda name: {"body": json.dumps({"order": name}), "content_type": "application/json"},
    lambda name: {"body": json.dumps([name, 1]), "content_type": "application/json"},
    lambda name: {"body": f"order {name}", "content_type": "text/plain"},
    lambda name: {"body": pickle.dumps({"order": name}), "content_type": "application/x-python-serialize"},
)


@dataclass
class Sent:
    """The ids of what was sent, by what has to become of it."""

    tasks: set[str] = field(default_factory=set)
    torn: set[str] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)


class Broker:
    """A client of the broker with two queues; what it sends is plain Kombu's and plain Celery's."""

    def __init__(self, url: str) -> None:
        self.connection: Any = connect(open_connection(url))
        arguments: dict[str, Any] = {"x-max-priority": 9}
        self.kept_in = {queue: unreadable_queue_name(queue) for queue in bursting.QUEUES}
        for queue in bursting.QUEUES:
            if queue == bursting.WITH_DEAD_LETTERS and url.startswith("amqp"):
                arguments |= {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": LETTERS}
                kombu.Queue(LETTERS)(self.connection.default_channel).queue_declare()
                self.kept_in[queue] = LETTERS
            declared = kombu.Queue(queue, queue_arguments=arguments)
            declared(self.connection.default_channel).queue_declare()
        self._producer = kombu.Producer(self.connection.default_channel, auto_declare=False)
        self.celery = make(url)

    def send_task(self, name: str, task_id: str, queue: str, priority: int, *args: Any) -> None:
        self.celery.send_task(name, args, task_id=task_id, queue=queue, priority=priority)

    def send_torn(self, task_id: str, queue: str) -> None:
        headers = {"id": task_id, "task": NAMES[0], "retries": 0}
        self.send(queue, body=b"[[1], {}", content_type="application/json", content_encoding="utf-8", headers=headers)

    def send(self, queue: str, **message: Any) -> None:
        self._producer.publish(exchange="", routing_key=queue, retry=False, **message)

    def take_kept(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What lies in the queues where it was kept: its id and its headers. It is taken out."""
        for name in dict.fromkeys(self.kept_in.values()):
            with self.connection.channel() as channel, suppress(*self.connection.channel_errors):
                while (found := channel.basic_get(name, no_ack=True)) is not None:
                    message = found if isinstance(found, kombu.Message) else channel.message_to_python(found)
                    yield str(message.properties.get("correlation_id")), dict(message.headers)

    def close(self) -> None:
        self.connection.release()
        self.celery.close()
        kombu.pools.reset()


@contextmanager
def celery_worker(here: Any) -> Iterator[Callable[[], str]]:
    """A Celery worker on the same queues; gives its log."""
    log = here.folder / "celery.log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BURSTING_BROKER": here.urls["broker"]}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tests.faults.bursting_celery", "worker", "-n", "celery@beside",
             "-c", "2", "-l", "info", "-Q", ",".join(bursting.QUEUES), "--without-mingle", "--without-gossip"],
            cwd=here.folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        read = partial(log.read_text, errors="replace")
        eventually(lambda: " ready." in read() or process.poll() is not None, 120, read)
        yield read
        assert process.poll() is None, read()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def missing(
    here: Any, broker: str, kills: int, patience: float, *, beside: bool = False
) -> tuple[Target, dict[str, int]]:
    """Of the messages of so many bursts, those that are missing or ended otherwise than they should. In each burst a worker or a
    child of one is killed, by turns. ``beside``: a Celery worker, which is not killed, reads the same queues.

    A task has to end in a record, or in Celery's hands; one that can't be read in a record of that; any other message has to lie
    with the reason where such messages are kept, and to be named in a log. What Celery gets of these it deletes, and names in its
    log.
    """
    rng, client, sent = random.Random(kills), Broker(here.urls["broker"]), Sent()
    try:
        with celery_worker(here) if beside else _nothing() as celery:
            workers = {name: here.start_worker(name, **OPTIONS) for name in WORKERS}
            killed = {"workers": 0, "children": 0}
            for number in range(kills):
                _send_burst(here, client, sent, number, rng)
                size = here.marks.stat().st_size
                eventually(lambda size=size: here.marks.stat().st_size > size, patience)  # type: ignore[misc]
                name = WORKERS[number // 2 % 2]
                for each in WORKERS:  # on a starved machine one may have given up while it started
                    if not here.is_ready(workers[each]):
                        workers[each] = here.start_worker(each, **OPTIONS)
                if number % 2:
                    _kill_child(workers[name], rng, patience)
                else:
                    here.end(workers[name], signal.SIGKILL)
                    workers[name] = here.begin_worker(name, **OPTIONS)
                killed["children" if number % 2 else "workers"] += 1
            judge = Judge(here, client, celery)
            lost = {
                "tasks": judge.rest(sent.tasks, judge.ended, patience),
                "torn": judge.rest(sent.torn, judge.refused, patience),
                "foreign": judge.rest(sent.foreign, judge.kept, patience),
            }
            bad = set().union(*lost.values()) | judge.wrong(sent.tasks)
            if bad:
                print({kind: sorted(ids)[:20] for kind, ids in lost.items() if ids}, sorted(bad)[:20], flush=True)
    finally:
        client.close()
    messages = len(sent.tasks) + len(sent.torn) + len(sent.foreign)
    where = f"{'beside a Celery worker' if beside else 'alone'}, {broker}"
    facts = {f"Runs that a kill interrupted, bursts {where}": judge.interrupted()}
    facts |= {f"Kills of {victims} under bursts, {where}": number for victims, number in killed.items()}
    if beside:
        facts[f"Messages of these bursts that Celery had, {broker}"] = judge.by_celery
    what = f"tasks and other messages missing after {kills} kills under bursts, {where}"
    return Target(what, len(bad), messages, 30 * TOGETHER), facts


def _send_burst(here: Any, client: Broker, sent: Sent, number: int, rng: random.Random) -> None:
    """A burst in an order of chance. Tasks come from a Celery client, with priorities, and from one of Stem."""
    own: list[TaskMessage] = []
    kinds = ["task"] * TASKS + ["torn"] * TORN + ["foreign"] * FOREIGN
    rng.shuffle(kinds)
    for place, kind in enumerate(kinds):
        name, queue = f"{kind}-{number}-{place}", rng.choice(bursting.QUEUES)
        if kind == "task":
            args, task = (str(here.marks), rng.random() < 0.25, rng.choice((0.0, 0.02, 0.1))), rng.choice(NAMES)
            if rng.random() < 0.25:
                own.append(TaskMessage(name, task, args, queue=queue))
            else:
                client.send_task(task, name, queue, rng.randrange(10), *args)
            sent.tasks.add(name)
        elif kind == "torn":
            client.send_torn(name, queue)
            sent.torn.add(name)
        else:
            client.send(queue, correlation_id=name, **BODIES[place % len(BODIES)](name))
            sent.foreign.add(name)
    here.app.producer.send_many(own)


def _kill_child(worker: WorkerProcess, rng: random.Random, patience: float) -> None:
    def kill() -> bool:
        with suppress(ProcessLookupError, IndexError):
            os.kill(rng.choice(worker.children()), signal.SIGKILL)
            return True
        return False

    eventually(kill, patience, "no child to kill")


class Judge:
    """Tells what has become of messages."""

    def __init__(self, here: Any, client: Broker, celery: Callable[[], str] | None) -> None:
        self._here, self._client, self._celery = here, client, celery
        self._kept: dict[str, dict[str, Any]] = {}
        self.by_celery = 0

    def rest(self, ids: set[str], gone: Callable[[set[str]], set[str]], patience: float) -> set[str]:
        """Those of the ids that are not ``gone``, once no further one has gone for so many seconds."""
        left = set(ids)
        with suppress(AssertionError):
            while left:
                left -= eventually(lambda left=frozenset(left): gone(set(left)), patience, interval=0.1)  # type: ignore[misc]
        return left

    def ended(self, ids: set[str]) -> set[str]:
        """Tasks that have a record of their end, or that a Celery worker has carried out."""
        found = {task for task in ids if (record := self._record(task)) is not None and record.state.is_terminal}
        by_celery = ids & self._marked(bursting.CELERY)
        self.by_celery += len(by_celery - found)
        return found | by_celery

    def refused(self, ids: set[str]) -> set[str]:
        """Tasks that are recorded as unreadable, or that Celery's log names."""
        found = {
            task
            for task in ids
            if (record := self._record(task)) is not None
            and record.error is not None
            and record.error.type == "UnreadableTask"
        }
        return found | self._said_by_celery(ids - found)

    def kept(self, ids: set[str]) -> set[str]:
        """Messages that lie where they are kept and that a worker's log names, or that Celery's log names."""
        for name, headers in self._client.take_kept():
            self._kept[name] = headers
        logs = "".join(path.read_text(errors="replace") for path in self._here.folder.glob("*-*.log"))
        found = {name for name in ids & self._kept.keys() if _tells_why(self._kept[name]) and f"id {name}," in logs}
        return found | self._said_by_celery(ids - found)

    def wrong(self, ids: set[str]) -> set[str]:
        """Tasks whose record is another than it should be: a success of which no handler knows, a failure that is none."""
        carried_out = self._marked(bursting.STEM) | self._marked(bursting.CELERY)
        found = set()
        for task in ids:
            record = self._record(task)
            if record is None or not record.state.is_terminal:
                continue
            right = task in carried_out if record.state is TaskState.SUCCEEDED else _killed_too_often(record)
            if not right:
                found.add(task)
        return found

    def interrupted(self) -> int:
        """Attempts that began in a worker of Stem and never came to their end."""
        counts = Counter(line.split()[-1] for line in self._here.marks.read_text().splitlines())
        return counts[bursting.BEGAN] - counts[bursting.STEM] - counts[bursting.FAILED]

    def _record(self, task: str) -> Any:
        return self._here.app.backend.get(task)

    def _marked(self, by: str) -> set[str]:
        lines = (line.split() for line in self._here.marks.read_text().splitlines())
        return {line[0] for line in lines if line[1:] == [by]}

    def _said_by_celery(self, ids: set[str]) -> set[str]:
        if self._celery is None or not ids:
            return set()
        log = self._celery()
        found = {name for name in ids if name in log}
        self.by_celery += len(found)
        return found


def _killed_too_often(record: Any) -> bool:
    return record.state is TaskState.FAILED and record.error is not None and record.error.type == "WorkerLost"


def _tells_why(headers: dict[str, Any]) -> bool:
    """Whether a message says why it was put aside, or where it was dead-lettered."""
    return bool(headers.get("stem-unreadable") and headers.get("stem-found-in") in bursting.QUEUES) or any(
        death.get("queue") == bursting.WITH_DEAD_LETTERS for death in headers.get("x-death", ())
    )


@contextmanager
def _nothing() -> Iterator[None]:
    yield None
