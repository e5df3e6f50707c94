"""Many workers' control ends in one process: ``python -m benchmarks.agents KIND BROKER BACKEND FIRST COUNT``.

``stem``: what a worker has to hear and answer (ear, reception, dispatch, codec), each on connections of its own and on the
roster, without its threads: one loop listens for all of them. ``pidbox``: ``kombu.pidbox``
nodes, each on a connection of its own.
"""

from __future__ import annotations

import os
import select
import sys
import time
from typing import Any

from kombu import Connection
from kombu.pidbox import Mailbox

from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.registry import open_roster
from stem_kombu.clock import SYSTEM
from stem_kombu.concurrency.wakeup import WakePipe
from stem_kombu.control.server.command_server import CommandServer
from stem_kombu.control.server.subscription import ControlSubscription
from stem_kombu.settings import Settings
from stem_kombu.transports import names
from stem_kombu.transports.connections import broker_connection
from tests.control.fleet import FakeWorker, identity

#: The namespace of ``kombu.pidbox`` here.
PIDBOX = "bench-pidbox"


class Agent:
    """A worker's control end."""

    def __init__(self, template: Any, namespace: str, name: str, pipe: WakePipe) -> None:
        self.view = FakeWorker(identity(name, namespace))
        self._reception = CommandServer(self.view, {}, later=lambda to, body: None, roster_now=SYSTEM.now, clock=SYSTEM)
        self._reception.open()
        self.ear = ControlSubscription(
            template, namespace, name, fanout=True, receive=self._reception.receive,
            garbage=lambda reason, text: None, later=lambda to, body: None, hearing_check=1e6, pipe=pipe, clock=SYSTEM,
        )  # fmt: skip
        self.ear.open()
        # It need not prove that it hears: to do so it speaks to everyone, which is 25 million messages for 5,000 of them before
        # anybody listens. Who does not hear is missed by the first ping.
        self.ear._proven = True
        self.ear._believe()
        if self.ear._hearing is not None:
            # What it spoke by once; four connections for each of five thousand are more than a server may open here.
            self.ear._hearing._pool.disconnect(inuse_connections=False)
            channel = self.ear._connection.default_channel
            for pool in (channel._pool, channel._async_pool, getattr(channel.client, "connection_pool", None)):
                if pool is not None and pool is not self.ear._hearing._pool:
                    pool.disconnect()

    def listen(self) -> None:
        """Take in what has come, without waiting for more."""
        self.ear.listen()
        if (hearing := self.ear._hearing) is not None:
            hearing._inbox.arm(time.monotonic())

    def descriptors(self) -> list[int]:
        hearing = self.ear._hearing
        if hearing is None:
            return [self.ear._socket.fileno()]
        return [hearing._inbox.fileno(), hearing._topic._sock.fileno()]


def stem(broker: str, backend: str, first: int, count: int) -> None:
    settings = Settings.from_env({}, broker=broker, backend=backend)
    namespace, template, pipe = settings.namespace, broker_connection(settings), WakePipe()
    pipe.open()
    # As kombu.pidbox has it: a heartbeat is half an event, for whose other half this one loop would wait.
    template.heartbeat = 0
    roster = open_roster(settings.roster.value)
    poller, agents = select.epoll(), {}
    for number in range(first, first + count):
        name = f"agent-{number}"
        agent = Agent(template, namespace, name, pipe)
        for descriptor in agent.descriptors():
            poller.register(descriptor, select.EPOLLIN)
            agents[descriptor] = agent
        roster.beat(
            Heartbeat(
                namespace, name, agent.view.identity.boot, names.inbox_name(namespace, name), 3600.0, "host",
                os.getpid(), "0.1.0", concurrency=4, queues=("default",),
                totals=dict.fromkeys(("received", "started", "succeeded", "failed", "retried", "cancelled"), 7),
            )
        )  # fmt: skip
    print("ready:", flush=True)
    quiet: set[Agent] = set()
    while True:
        events = poller.poll(0.05 if quiet else 1.0)
        # Once for each: with nothing left to hear it would wait, and all the others with it.
        for agent in {agents[descriptor] for descriptor, _ in events}:
            agent.listen()
            quiet.add(agent)
        if not events:
            for agent in quiet:
                agent.ear._mail.acknowledge() if agent.ear._mail is not None else None
            quiet.clear()


def pidbox(broker: str, backend: str, first: int, count: int) -> None:
    poller, nodes = select.epoll(), {}
    for number in range(first, first + count):
        connection = Connection(broker)
        mailbox = Mailbox(PIDBOX, type="fanout", accept=["json"], serializer="json")(connection)
        node = mailbox.Node(f"node-{number}", channel=connection.channel(), handlers={"ping": lambda state: "pong"})
        node.listen()
        if connection.transport.driver_type == "redis":
            try:
                connection.drain_events(timeout=0.01)  # it subscribes here
            except TimeoutError:
                pass
            socket = node.channel.subclient.connection._sock
        else:
            socket = connection.connection.sock
        poller.register(socket.fileno(), select.EPOLLIN)
        nodes[socket.fileno()] = connection
    print("ready:", flush=True)
    while True:
        for descriptor, _ in poller.poll(1.0):
            try:
                nodes[descriptor].drain_events(timeout=0.01)
            except TimeoutError:
                pass


if __name__ == "__main__":
    {"stem": stem, "pidbox": pidbox}[sys.argv[1]](sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
