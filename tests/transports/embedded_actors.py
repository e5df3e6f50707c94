"""Other processes on the same embedded broker: what they do, and how a test starts, reads, stops and kills them.

An actor is a function of this module that is run by ``python -m tests.transports.embedded_actors NAME JSON``. It says what
happens by lines on its standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kombu import Connection, Consumer, Exchange, Producer, Queue

from stem_kombu.task import TaskMessage
from stem_kombu.transports.producer import TaskProducer

TRANSPORT = "stem_kombu.transports.sqlite.registration:Transport"
ROOT = Path(__file__).resolve().parents[2]


def connect(url: str, **options: Any) -> Connection:
    """A connection that is open."""
    connection = Connection(url, transport=TRANSPORT, transport_options=options)
    connection.connect()
    return connection


class Actor:
    """A running actor."""

    def __init__(self, role: str, **arguments: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.transports.embedded_actors", role, json.dumps(arguments)],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            # What it forked would otherwise live on, with our pipe in its hands.
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._news: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            self._news.put(line.strip())

    def expect(self, beginning: str, timeout: float = 15.0) -> str:
        """The rest of the next line that begins so."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._news.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line {beginning!r} within {timeout} s; said: {self.lines}") from None
            if line.startswith(beginning):
                return line[len(beginning) :].strip()

    def tell(self) -> None:
        """Let the actor go on that waits in ``await_word``."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL for it and what it forked; all that it has said is read when this returns."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self._close()

    def finish(self, timeout: float = 30.0) -> None:
        """Wait for its end, which must be a success."""
        assert self.process.wait(timeout) == 0
        self._close()

    def _close(self) -> None:
        self._reader.join(10)
        # To close a pipe that another thread reads waits for that thread, and no signal interrupts it.
        assert not self._reader.is_alive(), f"somebody still holds the output of {self.process.args}"
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@contextlib.contextmanager
def acting(role: str, **arguments: Any) -> Iterator[Actor]:
    """An actor that is dead afterwards."""
    actor = Actor(role, **arguments)
    try:
        yield actor
    finally:
        with contextlib.suppress(ProcessLookupError):
            actor.signal(signal.SIGCONT)
        actor.kill()


# -- what actors do


def say(*words: object) -> None:
    print(*words, flush=True)


def await_word() -> None:
    sys.stdin.readline()


def drain(connection: Connection, seconds: float = 0.5) -> None:
    with contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=seconds)


def work(url: str, queue: str, prefetch: int = 16, **options: Any) -> None:
    """Consume for ever: says ``did N`` before it acknowledges message N, and ``acked N`` after that."""
    connection = connect(url, **options)
    channel = connection.channel()
    channel.basic_qos(0, prefetch, False)

    def take(body: dict[str, int], message: Any) -> None:
        say("did", body["n"], int(message.delivery_info["redelivered"]))
        message.ack()

    with Consumer(channel, [Queue(queue, durable=True)], callbacks=[take], accept=["json"]):
        say("ready")
        while True:
            drain(connection)


def produce(url: str, queue: str, first: int, count: int) -> None:
    """Publish numbers, and say ``sent N`` when N is committed."""
    with connect(url) as connection:
        producer = Producer(connection.default_channel)
        say("ready")
        for number in range(first, first + count):
            producer.publish({"n": number}, routing_key=queue, exchange="")
            say("sent", number)


def send_many(url: str, queue: str, count: int) -> None:
    """Send so many tasks by each call, whose numbers go on, and say ``sent N`` when the first N are sent."""
    producer = TaskProducer(lambda: connect(url))
    sent = 0
    while True:
        producer.send_many(
            TaskMessage(f"t{number}", "tasks.render", (number,), queue=queue) for number in range(sent, sent + count)
        )
        sent += count
        say("sent", sent)


def hold(
    url: str, queue: str, messages: int = 1, auto_delete: bool = False, expires: float | None = None, **options: Any
) -> None:
    """Take messages without acknowledging them; acknowledge all when told to, and say ``settled``."""
    connection = connect(url, **options)
    channel = connection.channel()
    held: list[Any] = []
    wanted = Queue(queue, durable=True, auto_delete=auto_delete, expires=expires)
    with Consumer(channel, [wanted], callbacks=[lambda body, message: held.append(message)], accept=["json"]):
        say("ready")
        while len(held) < messages:
            drain(connection)
        say("holds", len(held))
        await_word()
        extended = [channel.extend(message.delivery_tag, 5) for message in held]
        say("extended", all(extended))
        for message in held:
            message.ack()
        channel.open_session().flush()
        say("settled")
        await_word()
    connection.release()


def listen(url: str, exchange: str, name: str) -> None:
    """Say every broadcast on a fanout exchange."""
    connection = connect(url)
    mine = Queue(name, Exchange(exchange, type="fanout"), auto_delete=True, durable=True, expires=60)

    def hear(body: Any, message: Any) -> None:
        message.ack()
        say("heard", json.dumps(body))

    with Consumer(connection.channel(), [mine], callbacks=[hear], accept=["json"]):
        say("ready")
        while True:
            drain(connection)


def answer(url: str, name: str, exchange: str) -> None:
    """Answer pings: a fanout question with the name of a reply queue."""
    connection = connect(url)
    channel = connection.channel()
    producer = Producer(channel)
    mine = Queue(f"{name}-bcast", Exchange(exchange, type="fanout"), auto_delete=True, durable=True, expires=60)

    def reply(body: Any, message: Any) -> None:
        producer.publish({"worker": name, "ticket": body["ticket"]}, routing_key=body["reply_to"], exchange="")
        message.ack()

    with Consumer(channel, [mine], callbacks=[reply], accept=["json"]):
        say("ready")
        while True:
            drain(connection)


def careless(url: str, queue: str) -> None:
    """Acknowledge one message in a callback and end at once, without closing anything."""
    connection = connect(url)
    with contextlib.suppress(TimeoutError):
        Consumer(
            connection.channel(), [Queue(queue, durable=True)], callbacks=[lambda body, message: message.ack()]
        ).consume()
        connection.drain_events(timeout=10)


def busy_loop(url: str, queue: str, seconds: float, **options: Any) -> None:
    """Take one message and compute without ever draining for so long; then acknowledge it."""
    connection = connect(url, **options)
    channel = connection.channel()
    channel.basic_qos(0, 1, False)
    held: list[Any] = []
    with Consumer(channel, [Queue(queue)], callbacks=[lambda body, message: held.append(message)], accept=["json"]):
        while not held:
            drain(connection)
        say("holds")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            sum(range(1000))
        held[0].ack()
        channel.open_session().flush()
        say("settled")
        await_word()


def fork(url: str, queue: str) -> None:
    """Fork while connected, consuming and holding a message; the child publishes, the parent settles afterwards."""
    connection = connect(url)
    channel = connection.channel()
    producer = Producer(channel)
    held: list[Any] = []
    with Consumer(channel, [Queue(queue)], callbacks=[lambda body, message: held.append(message)], accept=["json"]):
        producer.publish({"n": 0}, routing_key=queue, exchange="")
        while not held:
            drain(connection)
        child = os.fork()
        if child == 0:
            try:
                producer.publish({"n": 1}, routing_key="from-child", exchange="")
                late = False
                try:
                    held[0].ack()
                except Exception:  # noqa: BLE001 - whatever it is, it is the refusal that the test wants
                    late = True
                connection.release()
                os._exit(0 if late else 3)
            except BaseException as error:  # noqa: BLE001 - the child must not run the parent's exit
                sys.stderr.write(repr(error))
                os._exit(4)
        say("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        say("still held", channel.extend(held[0].delivery_tag, 5))
        held[0].ack()
    connection.release()
    say("done")


def heir(url: str, queue: str) -> None:
    """Fork while connected; the child publishes over a connection of its own, before and after its parent leaves."""
    connection = connect(url)
    connection.default_channel.queue_declare(queue)
    left, leave = os.pipe()
    child = os.fork()
    if child == 0:
        with connect(url) as own:
            producer = Producer(own.channel())
            producer.publish({"n": 1}, routing_key=queue, exchange="")
            say("published")
            os.read(left, 1)
            producer.publish({"n": 2}, routing_key=queue, exchange="")
        os._exit(0)
    await_word()
    connection.release()
    os.write(leave, b".")
    say("left", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def orphan(url: str, queue: str) -> None:
    """Hold a message, fork a child that outlives us, and wait to be killed: the child says its process id first."""
    connection = connect(url)
    channel = connection.channel()
    held: list[Any] = []
    with Consumer(channel, [Queue(queue)], callbacks=[lambda body, message: held.append(message)], accept=["json"]):
        while not held:
            drain(connection)
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
        say("holds", child)
        await_word()


if __name__ == "__main__":
    globals()[sys.argv[1]](**json.loads(sys.argv[2]))
