"""Control of very many workers: real mailbox and listener code, many agents in few processes, beside ``kombu.pidbox`` nodes."""

from __future__ import annotations

import sys
import time
from typing import Any

from kombu import Connection
from kombu.pidbox import Mailbox

from benchmarks.agents import PIDBOX
from benchmarks.figures import Figure, Findings, ratio, slope
from benchmarks.lab import BROKERS, Lab, Process, Usage
from stem_kombu import ControlClient

SIZES = (10, 100, 1000, 5000)
#: Nodes of the peer: the size that the goal is about, and those below.
PEERS = (100, 1000)
#: Pings of each at least.
TURNS = 10
PROCESSES = 2
TIMEOUT = 30.0


def measure(lab: Lab, found: Findings) -> None:
    for broker in BROKERS:
        totals = [stem(lab, found, broker, size) for size in SIZES]
        found.add(slope(f"{broker}: ping, growth with the simulated workers", SIZES, totals, "0.9 to 1.1"))
        for size in PEERS:
            in_turns(lab, found, broker, size)


def begin(lab: Lab, start: Any, kind: str, size: int, *urls: str) -> list[Process]:
    share = -(-size // PROCESSES)
    begun = [
        start(sys.executable, "-m", "benchmarks.agents", kind, *urls, str(first), str(min(share, size - first)))
        for first in range(0, size, share)
    ]
    for process in begun:
        process.wait_for("ready:", 600)
    return begun


def stem(lab: Lab, found: Findings, broker: str, size: int) -> float:
    settings = lab.settings(lab.url(broker), lab.url("redis"))
    server, times, cpu, agents_cpu, own_cpu = lab.server(broker).pid, [], [], [], []
    with lab.processes() as start, ControlClient(settings) as client:
        begun = begin(lab, start, "stem", size, settings.broker.value, str(settings.backend.value))
        for _ in range(2):
            assert len(client.ping(timeout=TIMEOUT).replies) == size
        calls = max(lab.rounds, 2000 // size) if size < 1000 else lab.rounds
        before, agents, own = Usage.of(server), [Usage.of(p.popen.pid).cpu for p in begun], time.process_time()
        for _ in range(calls):
            began = time.perf_counter()
            report = client.ping(timeout=TIMEOUT)
            times.append((time.perf_counter() - began) * 1000)
            assert report.complete and len(report.replies) == size, f"{len(report.replies)} of {size}; {report.notes}"
        after = Usage.of(server)
        cpu.append((after.cpu - before.cpu) * 1000 / calls)
        agents_cpu.append(
            sum(Usage.of(p.popen.pid).cpu - was for p, was in zip(begun, agents, strict=True)) * 1000 / calls
        )
        own_cpu.append((time.process_time() - own) * 1000 / calls)
    all_in = Figure(f"{broker}: ping, {size:,} simulated workers, all in", times, "ms")
    found.add(
        all_in,
        Figure(f"{broker}: the broker's processor time for it, {size:,} workers", cpu, "ms"),
        Figure(f"{broker}: the client's, {size:,} workers", own_cpu, "ms"),
        Figure(f"{broker}: each worker's, {size:,} workers", [used / size for used in agents_cpu], "ms"),
        Figure(f"{broker}: the broker's memory with {size:,} workers", [after.pss_mb], "MB"),
        # One published, one delivered to each, an answer of each, and its delivery; on Redis an answer is one command.
        Figure(f"{broker}: messages sent for it, {size:,} workers", [1 + size], "messages"),
    )
    return all_in.median


def in_turns(lab: Lab, found: Findings, broker: str, size: int) -> None:
    """A ping of so many workers and one of as many nodes of ``kombu.pidbox``, in turns, everybody up."""
    settings, url = lab.settings(lab.url(broker), lab.url("redis")), lab.url(broker)
    ours: list[float] = []
    theirs: list[float] = []
    with lab.processes() as start, ControlClient(settings) as client, Connection(url) as connection:
        begin(lab, start, "stem", size, settings.broker.value, str(settings.backend.value))
        begin(lab, start, "pidbox", size, url, "-")
        mailbox = Mailbox(PIDBOX, type="fanout", accept=["json"], serializer="json")(connection)
        for number in range(max(lab.rounds, TURNS) + 1):
            began = time.perf_counter()
            report = client.ping(timeout=TIMEOUT)
            between = time.perf_counter()
            replies = mailbox.multi_call("ping", timeout=TIMEOUT, limit=size)
            ended = time.perf_counter()
            assert len(report.replies) == len(replies) == size, f"{len(report.replies)}, {len(replies)} of {size}"
            if number:
                ours.append((between - began) * 1000)
                theirs.append((ended - between) * 1000)
    ping = Figure(f"{broker}: ping beside kombu.pidbox, {size:,} workers", ours, "ms")
    peer = Figure(f"{broker}: kombu.pidbox with limit, {size:,} nodes", theirs, "ms")
    goal = "2 at least" if size == 1000 else ""
    found.add(ping, peer, ratio(f"{broker}: pidbox with limit against ping, {size:,} workers", peer, ping, goal))
