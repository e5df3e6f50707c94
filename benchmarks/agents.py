"""Many workers' control ends in one process: ``python -m benchmarks.agents KIND BROKER BACKEND FIRST COUNT``.

``stem``: what a worker has to hear and answer (ear, reception, dispatch, codec), each on connections of its own and on the
roster, without its threads: one loop listens for all of them. ``pidbox``: ``kombu.pidbox``
nodes, each on a connection of its own.
"""

from __future__ import annotations

import os
import select
import sys
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
from stem_kombu.transports.redis.control import RedisControlConnection
from stem_kombu.transports.registry import open_transport
from tests.control.fleet import FakeWorker, identity

#: The namespace of ``kombu.pidbox`` here.
PIDBOX = "bench-pidbox"


class Agent:
    """A worker's control end."""

    def __init__(self, template: Any, namespace: str, name: str, pipe: WakePipe) -> None:
        self.view = FakeWorker(identity(name, namespace))
        self._reception = CommandServer(self.view, {}, later=lambda to, body: None, roster_now=SYSTEM.now, clock=SYSTEM)
        self._reception.open()
        self.subscription = ControlSubscription(
            open_transport(template).control(clock=SYSTEM), namespace, name, receive=self._reception.receive,
            malformed=lambda reason, text: None, hearing_check=1e6, pipe=pipe, clock=SYSTEM,
        )  # fmt: skip
        self.subscription.open()
        # It need not prove that it receives: to do so it sends to everyone, which is 25 million messages for 5,000 of them
        # before anybody listens. Who does not receive is missed by the first ping.
        self.subscription._proven = True
        self.subscription._trust()
        self.connection: Any = self.subscription._connection
        self.listen()  # so that what waits at the server is asked for; the subscription itself would wait for something

    def listen(self) -> None:
        """Take in what has come, without waiting for more."""
        self.subscription._take(self.connection.wait(0.0))

    def descriptors(self) -> list[int]:
        if isinstance(self.connection, RedisControlConnection):
            return [self.connection._inbox.fileno(), self.connection._subscription.fileno()]  # type: ignore[union-attr]
        return [self.connection._connection.connection.sock.fileno()]


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
                agent.listen()  # with nothing there, which acknowledges what was, and asks Redis for more
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
