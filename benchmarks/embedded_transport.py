"""How fast the embedded broker moves messages between processes, and what it costs when idle.

    python benchmarks/embedded_transport.py [--messages 10000] [--prefetch 16] [--runs 3]

Two producers publish one message per transaction, two consumers acknowledge each; four processes on one file. Prints
the median of the runs, how many were lost or delivered twice, a ping round trip, and the share of a core that one
consumer of two idle queues uses.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import queue as queues
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from kombu import Connection, Consumer, Producer, Queue

TRANSPORT = "stem_kombu.transports.sqlite.registration:Transport"


def produce(url: str, first: int, count: int, ready: Any) -> None:
    with Connection(url, transport=TRANSPORT) as connection:
        producer = Producer(connection.default_channel)
        ready.wait()
        for number in range(first, first + count):
            producer.publish({"n": number}, routing_key="bench", exchange="")


def consume(url: str, prefetch: int, ready: Any, total: Any, done: Any, found: Any) -> None:
    with Connection(url, transport=TRANSPORT) as connection:
        channel = connection.channel()
        channel.basic_qos(0, prefetch, False)
        mine: list[int] = []

        def take(body: dict[str, int], message: Any) -> None:
            mine.append(body["n"])
            message.ack()

        with Consumer(channel, [Queue("bench")], callbacks=[take], accept=["json"]):
            ready.wait()
            reported = 0
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=0.05)
                if len(mine) - reported >= 20 or done.is_set() or not reported:
                    with total.get_lock():
                        total.value += len(mine) - reported
                    reported = len(mine)
        found.put(mine)


def throughput(messages: int, prefetch: int) -> tuple[float, int, int]:
    """Messages a second, lost, delivered twice."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/broker.db"
        with Connection(url, transport=TRANSPORT) as connection:
            Queue("bench", durable=True)(connection.default_channel).declare()
        ready, total, done, found = context.Barrier(5), context.Value("i", 0), context.Event(), context.Queue()
        people = [context.Process(target=produce, args=(url, i * messages, messages // 2, ready)) for i in (0, 1)]
        people += [context.Process(target=consume, args=(url, prefetch, ready, total, done, found)) for _ in (0, 1)]
        for person in people:
            person.start()
        ready.wait()
        began = time.perf_counter()
        while total.value < messages - 40 and time.perf_counter() - began < 60:
            time.sleep(0.005)
        took = time.perf_counter() - began
        rate = total.value / took
        time.sleep(0.3)
        done.set()
        got = [n for _ in (0, 1) for n in found.get(timeout=30)]
        for person in people:
            person.join()
        return rate, messages // 2 * 2 - len(set(got)), len(got) - len(set(got))


def echo(url: str, ready: Any, done: Any) -> None:
    with Connection(url, transport=TRANSPORT) as connection:
        channel = connection.channel()
        producer = Producer(channel)

        def answer(body: Any, message: Any) -> None:
            producer.publish(body, routing_key="answers", exchange="")
            message.ack()

        with Consumer(channel, [Queue("questions")], callbacks=[answer], accept=["json"]):
            ready.set()
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=0.1)


def round_trip(times: int = 50) -> float:
    """Median seconds from a question to its answer in another process that was idle."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/broker.db"
        other = context.Process(target=echo, args=(url, ready, done))
        other.start()
        ready.wait()
        spans: list[float] = []
        with Connection(url, transport=TRANSPORT) as connection:
            channel = connection.channel()
            answers: queues.Queue[Any] = queues.Queue()
            with Consumer(
                channel, [Queue("answers")], callbacks=[lambda b, m: (m.ack(), answers.put(b))], accept=["json"]
            ):
                producer = Producer(channel)
                for number in range(times):
                    time.sleep(0.05)
                    began = time.perf_counter()
                    producer.publish({"n": number}, routing_key="questions", exchange="")
                    while answers.empty():
                        connection.drain_events(timeout=5)
                    answers.get()
                    spans.append(time.perf_counter() - began)
        done.set()
        other.join()
    return statistics.median(spans)


def idle(url: str, seconds: float, used: Any) -> None:
    with Connection(url, transport=TRANSPORT) as connection:
        channel = connection.channel()
        wanted = [Queue("one"), Queue("two")]
        with Consumer(channel, wanted, callbacks=[lambda body, message: message.ack()], accept=["json"]):
            before, until = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() + seconds
            while time.monotonic() < until:
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=1)
            after = resource.getrusage(resource.RUSAGE_SELF)
    used.value = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / seconds


def idle_cost(seconds: float = 5.0) -> float:
    """Share of one core."""
    context = multiprocessing.get_context("spawn")
    used = context.Value("d", 0.0)
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=idle, args=(f"sqlite:///{Path(folder)}/broker.db", seconds, used))
        process.start()
        process.join()
    return float(used.value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--prefetch", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    runs = [throughput(options.messages, options.prefetch) for _ in range(options.runs)]
    rates = sorted(rate for rate, _, _ in runs)
    print(
        f"throughput  {statistics.median(rates):,.0f} msg/s ({rates[0]:,.0f} to {rates[-1]:,.0f}),"
        f" prefetch {options.prefetch}"
    )
    print(f"lost        {sum(lost for _, lost, _ in runs)}")
    print(f"twice       {sum(twice for _, _, twice in runs)}")
    print(f"round trip  {round_trip() * 1000:.1f} ms")
    print(f"idle        {idle_cost() * 100:.1f} % of a core, two queues")


if __name__ == "__main__":
    main()
