"""The embedded broker's doorbell: a consumer need not poll for what another process writes, and does where there is no bell."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue

from stem_kombu.clock import SYSTEM
from stem_kombu.transports.sqlite.doorbell import Doorbell, WakeUp, bell_path
from tests.transports.embedded_actors import acting, connect
from tests.transports.test_embedded_queues import publish
from tests.waiting import eventually

#: Seconds: what takes so long was found by polling, or not at all.
LONG = 60.0
linux = pytest.mark.skipif(sys.platform != "linux", reason="there is a bell on Linux only")


class Taking:
    """Takes numbers from ``q``, and looks for them once an hour unless it is woken."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.numbers: list[int] = []
        queue = Queue("q", durable=True)
        self.consumer = Consumer(connection.channel(), [queue], callbacks=[self._take], accept=["json"])
        self.consumer.consume()

    def _take(self, body: dict[str, int], message: Any) -> None:
        self.numbers.append(body["n"])
        message.ack()

    def until(self, number: int) -> None:
        while number not in self.numbers:
            self.connection.drain_events(timeout=LONG)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


@pytest.fixture
def taking(sqlite_url: str) -> Iterator[Taking]:
    with connect(sqlite_url, polling_interval=3600) as connection:
        yield Taking(connection)


@linux
def test_a_message_from_another_process_arrives_without_polling(sqlite_url: str, taking: Taking) -> None:
    for number in range(3):
        with acting("produce", url=sqlite_url, queue="q", first=number, count=1):
            taking.until(number)

    assert taking.numbers == [0, 1, 2]


@linux
def test_g18_killed_publishers_and_consumers_leave_a_bell_that_rings(
    sqlite_url: str, path: Path, taking: Taking
) -> None:
    for round_ in range(3):
        # Given publishers and consumers that are killed at any moment
        first = 10_000 * (round_ + 1)
        with (
            acting("work", url=sqlite_url, queue="other", polling_interval=3600) as consumer,
            acting("produce", url=sqlite_url, queue="q", first=first, count=5000) as publisher,
        ):
            consumer.expect("ready", LONG)
            for _ in range(20 * round_ + 1):
                publisher.expect("sent", LONG)
            publisher.kill()
            consumer.kill()
            # (The last line may have been cut off in the middle.)
            sent = max(int(number) for line in publisher.lines if (number := line.removeprefix("sent ")).isdigit())
        # Then what was sent is there, and the next process is noticed as before
        taking.until(sent)
        with acting("produce", url=sqlite_url, queue="q", first=round_, count=1):
            taking.until(round_)

    found = {one.name for one in path.parent.iterdir()}
    assert found <= {f"broker.db{suffix}" for suffix in ("", "-wal", "-shm", "-owners", "-bell")}


def test_a_bell_that_is_none_is_left_alone_and_messages_are_found_by_polling(sqlite_url: str, path: Path) -> None:
    bell_path(path).write_text("somebody's notes")
    with connect(sqlite_url) as connection:
        taking = Taking(connection)
        with acting("produce", url=sqlite_url, queue="q", first=1, count=2):
            taking.until(2)

    assert bell_path(path).read_text() == "somebody's notes"


def test_nothing_is_written_through_a_link(tmp_path: Path, path: Path) -> None:
    target = tmp_path / "elsewhere"
    os.mkfifo(target)
    bell_path(path).symlink_to(target)
    reader = os.open(target, os.O_RDWR | os.O_NONBLOCK)

    Doorbell(path).ring()

    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    os.close(reader)


@linux
def test_a_bell_that_was_removed_is_put_back_by_the_next_consumer_and_rung_again(
    sqlite_url: str, path: Path, taking: Taking
) -> None:
    with acting("produce", url=sqlite_url, queue="q", first=0, count=1):
        taking.until(0)
    bell_path(path).unlink()

    with connect(sqlite_url, polling_interval=3600) as connection:
        other = Taking(connection)
        taking.consumer.cancel()
        threading.Timer(0.2, connection.transport.wake).start()
        connection.drain_events(timeout=LONG)
        with acting("produce", url=sqlite_url, queue="q", first=1, count=1):
            other.until(1)
    assert stat.S_ISFIFO(bell_path(path).stat().st_mode)


@linux
def test_a_pipe_that_nobody_empties_goes_on_ringing(path: Path) -> None:
    waiting, bell = WakeUp(path), Doorbell(path)
    waiting.rung(0.01)
    filled = os.open(bell_path(path), os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while os.write(filled, b"." * 4096):
            pass
    os.close(filled)
    for _ in range(3):
        began = SYSTEM.monotonic()
        waiting.rung(LONG)
        assert SYSTEM.monotonic() - began < LONG / 2
        waiting.clear()
        ringing = threading.Timer(0.05, bell.ring)
        ringing.start()
        ringing.join()
    bell.close()
    waiting.close()


def test_it_is_woken_by_threads_as_an_event_is_and_left_at_the_time(path: Path) -> None:
    waiting = WakeUp(path)
    waiting.set()
    waiting.rung(LONG)
    waiting.rung(LONG)
    waiting.clear()
    began = SYSTEM.monotonic()
    waiting.rung(0.05)
    assert SYSTEM.monotonic() - began >= 0.04
    setting = threading.Timer(0.05, waiting.set)
    setting.start()
    waiting.rung(LONG)
    setting.join()
    closing = threading.Timer(0.05, waiting.close)
    waiting.clear()
    closing.start()
    waiting.rung(LONG)
    closing.join()
    assert SYSTEM.monotonic() - began < LONG / 2
    waiting.set()
    waiting.clear()
    waiting.rung(0)


@linux
def test_connections_leave_no_descriptors(sqlite_url: str) -> None:
    def descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    def visit() -> None:
        with connect(sqlite_url, polling_interval=0.01) as connection:
            Taking(connection)
            publish(connection.default_channel, {"n": 1}, "q")
            connection.drain_events(timeout=LONG)
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.05)

    visit()
    before = descriptors()
    for _ in range(10):
        visit()
    assert descriptors() <= before


@linux
def test_g18_a_child_that_is_forked_while_threads_wake_a_consumer_does_not_wait_for_them(path: Path) -> None:
    """Their locks are inherited as they are, and no thread of the child will let go of them."""
    wake, stop = WakeUp(path), threading.Event()

    def wakes() -> None:
        while not stop.is_set():
            wake.set()

    def waits() -> None:
        while not stop.is_set():
            wake.rung(LONG)
            wake.clear()

    threads = [threading.Thread(target=target) for target in (waits, wakes, wakes)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            pid = os.fork()
            if pid == 0:
                wake.abandon()
                os._exit(0)
            try:
                eventually(lambda pid=pid: os.waitpid(pid, os.WNOHANG)[0] == pid, 30)  # type: ignore[misc]
            except AssertionError:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
    finally:
        stop.set()
        wake.set()
        for thread in threads:
            thread.join(30)
        wake.close()


@linux
def test_a_bell_that_is_closed_is_not_opened_by_a_thread_that_rings_late(path: Path) -> None:
    waiting, bell = WakeUp(path), Doorbell(path)
    waiting.rung(0.01)  # there is a pipe

    def opened() -> int:
        return sum(entry.resolve() == bell_path(path).resolve() for entry in Path("/proc/self/fd").iterdir())

    before = opened()
    bell.close()
    bell.ring()
    assert opened() == before
    bell.open()
    SYSTEM.sleep(0.01)  # a bell is rung once in a few milliseconds at most
    bell.ring()
    assert opened() == before + 1
    bell.close()
    waiting.close()
    assert opened() == 0
