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
PROCESSES = 2
TIMEOUT = 30.0


def measure(lab: Lab, found: Findings) -> None:
    for broker in BROKERS:
        totals = []
        for size in SIZES:
            ours = stem(lab, found, broker, size)
            totals.append(ours.median)
            if size in PEERS:
                theirs = pidbox(lab, found, broker, size)
                goal = "2 at least" if size == 1000 else ""
                found.add(ratio(f"{broker}: pidbox with limit against ping, {size:,} workers", theirs, ours, goal))
        found.add(slope(f"{broker}: ping, growth with the simulated workers", SIZES, totals, "0.9 to 1.1"))


def begin(lab: Lab, start: Any, kind: str, size: int, *urls: str) -> list[Process]:
    share = -(-size // PROCESSES)
    begun = [
        start(sys.executable, "-m", "benchmarks.agents", kind, *urls, str(first), str(min(share, size - first)))
        for first in range(0, size, share)
    ]
    for process in begun:
        process.wait_for("ready:", 600)
    return begun


def stem(lab: Lab, found: Findings, broker: str, size: int) -> Figure:
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
            assert report.complete and len(report.replies) == size, "some were lost"
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
    return all_in


def pidbox(lab: Lab, found: Findings, broker: str, size: int) -> Figure:
    url, times = lab.url(broker), []
    with lab.processes() as start, Connection(url) as connection:
        begin(lab, start, "pidbox", size, url, "-")
        mailbox = Mailbox(PIDBOX, type="fanout", accept=["json"], serializer="json")(connection)
        for number in range(lab.rounds + 1):
            began = time.perf_counter()
            replies = mailbox.multi_call("ping", timeout=TIMEOUT, limit=size)
            if number:
                times.append((time.perf_counter() - began) * 1000)
            assert len(replies) == size, f"{len(replies)} of {size}"
    figure = Figure(f"{broker}: kombu.pidbox with limit, {size:,} nodes", times, "ms")
    found.add(figure)
    return figure
