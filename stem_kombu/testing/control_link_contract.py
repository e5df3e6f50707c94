"""What every control link promises, as tests: derive from :class:`ControlLinkContract` and say where the broker is.

class TestControlOnMine(ControlLinkContract):
    @pytest.fixture
    def url(self) -> str:
        return "mine://…"
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import pytest

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.concurrency.wakeup import WakePipe
from stem_kombu.errors import BrokerError, BrokerUnavailable
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.transports import names
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.control_link import (
    Addresses,
    ControlConnection,
    ControlLink,
    ControlMessage,
    MalformedMessage,
    MessageKind,
    Received,
)
from stem_kombu.transports.registry import open_transport

#: Longest wait, in seconds, for what takes a moment.
PATIENCE = 30.0

#: Opens a connection at every address and says so, until it is killed.
_LISTENER = """
import importlib, sys
from stem_kombu.clock import SYSTEM
from stem_kombu.transports.control_link import Addresses
template, name, url, namespace = sys.argv[1:]
found = [getattr(importlib.import_module(module), name) for module, name in (one.split(":") for one in (template, name))]
link = found[1](found[0](url), clock=SYSTEM)
inbox = "stem-killed-inbox"
addresses = Addresses(namespace, "killed", inbox=inbox, broadcasts=link.fans_out(), heartbeats=link.fans_out())
connection = link.open(addresses, timeout=10.0, limit=10.0)
connection.wait(0.05)
print("ready", flush=True)
while True:
    connection.wait(1.0)
"""


def link_of(template: Any, *, clock: Clock) -> ControlLink:
    """The link that the broker's transport has."""
    return open_transport(template).control(clock=clock)


class ControlLinkContract:
    """The promises of :class:`stem_kombu.transports.control_link.ControlLink` and of its connections."""

    #: Makes of the URL what a link is made from, and of that and the clock a link.
    open_template: Callable[[str], Any] = staticmethod(open_connection)
    make_link: Callable[..., ControlLink] = staticmethod(link_of)
    #: False where a broadcast may be lost that is sent as soon as a connection is open: the worker's own probe finds that out.
    confirms_subscription = True
    #: False where an unread message stays; control drops it by the times that are in it.
    expires_unread = True
    #: False where the longest wait for an answer is that of the opening.
    changes_limit = True
    #: False where the transport itself sets a message aside that it can't read.
    reports_malformed = True
    #: False where queues of a killed process stay until they expire, a minute later.
    forgets_the_killed = True

    @pytest.fixture
    def url(self) -> str:
        """Where an empty broker is. Override it."""
        raise NotImplementedError("override the fixture url: it gives the URL of an empty broker")

    @pytest.fixture
    def left_behind(self, url: str) -> Callable[[], Collection[str]]:
        """What is at the broker for one connection alone, and will not go away by itself soon. Override it."""
        pytest.skip("nothing can be seen at this broker")

    @pytest.fixture
    def put_malformed(self, url: str) -> Callable[[str], None]:
        """Puts something into an inbox that is no message. Override it."""
        pytest.skip("whatever is put into an inbox here is a message")

    @pytest.fixture
    def proxied(self, url: str) -> tuple[TcpProxy, str]:
        """A started proxy before the broker, and the broker's URL through it. Override it."""
        pytest.skip("there is no network before this broker")

    @pytest.fixture
    def namespace(self) -> str:
        return f"c{secrets.token_hex(4)}"

    @pytest.fixture
    def opened(self, url: str, namespace: str) -> Iterator[Callable[..., ControlConnection]]:
        """``opened("alpha", inbox=…, broadcasts=…, heartbeats=…)``: a connection that is closed when the test is over."""
        connections: list[ControlConnection] = []

        def opened(
            owner: str = "", *, at: str | None = None, confirms: bool = False, limit: float = 10.0, **addresses: Any
        ) -> ControlConnection:
            link = self.make_link(self.open_template(at or url), clock=SYSTEM)
            connections.append(
                link.open(Addresses(namespace, owner, **addresses), timeout=10.0, limit=limit, confirms=confirms)
            )
            return connections[-1]

        yield opened
        for connection in connections:
            connection.close()

    @pytest.fixture
    def worker(self, namespace: str, opened: Callable[..., ControlConnection]) -> Callable[..., ControlConnection]:
        """``worker("alpha")``: a connection as a worker has one, of which it is known that broadcasts arrive."""

        def opened_as_worker(name: str, **more: Any) -> ControlConnection:
            inbox = names.inbox_name(namespace, name)
            connection = opened(name, inbox=inbox, broadcasts=True, **more)
            if not self.confirms_subscription:
                _prove(connection)
            return connection

        return opened_as_worker

    # -- sending and receiving ------------------------------------------------------------------------------------------

    def test_it_says_which_broker_it_is_and_fans_out(self, url: str) -> None:
        link = self.make_link(self.open_template(url), clock=SYSTEM)
        assert link.url
        assert link.fans_out(5.0)

    def test_it_listens_before_it_speaks(self, namespace: str, opened: Callable[..., ControlConnection]) -> None:
        """What is sent to an inbox is there, however early it comes after the opening."""
        for number in range(10):
            inbox = names.reply_name(namespace, f"client-{number}")
            asking, answering = opened(f"client-{number}", inbox=inbox, confirms=True), opened()
            answering.send(inbox, b"answer", expires=60.0)
            assert _next(asking, 1) == [ControlMessage(MessageKind.INBOX, b"answer")]

    def test_a_broadcast_reaches_every_connection_that_receives_broadcasts_and_no_other(
        self, namespace: str, worker: Callable[..., ControlConnection], opened: Callable[..., ControlConnection]
    ) -> None:
        workers = [worker(name) for name in ("alpha", "bravo", "charlie")]
        client_inbox = names.reply_name(namespace, "client")
        client = opened("client", inbox=client_inbox, confirms=True)
        for number in range(20):
            client.broadcast(b"%d" % number, expires=60.0)
        client.settle()
        workers[0].broadcast(b"mine", expires=60.0)
        expected = {*(b"%d" % number for number in range(20)), b"mine"}
        for connection in workers:
            received = _next(connection, len(expected))
            assert {message.body for message in received} == expected
            assert {message.kind for message in received} == {MessageKind.BROADCAST}
        client.send(client_inbox, b"last", expires=60.0)
        assert _next(client, 1) == [ControlMessage(MessageKind.INBOX, b"last")]

    def test_what_is_sent_to_an_inbox_reaches_its_owner_alone_in_order_and_once(
        self, namespace: str, worker: Callable[..., ControlConnection], opened: Callable[..., ControlConnection]
    ) -> None:
        alpha, bravo, client = worker("alpha"), worker("bravo"), opened(confirms=True)
        for number in range(200):
            client.send(names.inbox_name(namespace, "alpha"), b"%d" % number, expires=60.0)
        client.send(names.inbox_name(namespace, "bravo"), b"only", expires=60.0)
        client.settle()
        assert [message.body for message in _next(alpha, 200)] == [b"%d" % number for number in range(200)]
        assert _next(bravo, 1) == [ControlMessage(MessageKind.INBOX, b"only")]
        assert _without_probes(alpha.wait(0.0)) == []

    def test_heartbeats_reach_those_who_follow_and_broadcasts_do_not(
        self, worker: Callable[..., ControlConnection], opened: Callable[..., ControlConnection]
    ) -> None:
        alpha, follower = worker("alpha"), opened("follower", heartbeats=True)

        def beat() -> object:
            alpha.broadcast(b"command", expires=60.0)
            alpha.publish_heartbeat(b"beat", expires=60.0)
            return _collected(follower, received)

        received: list[Received] = []
        _until(beat)
        assert set(received) == {ControlMessage(MessageKind.HEARTBEAT, b"beat")}
        assert {message.body for message in _next(alpha, 1)} == {b"command"}

    def test_other_namespaces_hear_nothing(
        self, url: str, worker: Callable[..., ControlConnection], opened: Callable[..., ControlConnection]
    ) -> None:
        alpha = worker("alpha")
        link = self.make_link(self.open_template(url), clock=SYSTEM)
        stranger = link.open(Addresses("elsewhere"), timeout=10.0, limit=10.0, confirms=True)
        stranger.broadcast(b"strange", expires=60.0)
        stranger.settle()
        stranger.close()
        alpha.broadcast(b"mine", expires=60.0)
        assert _next(alpha, 1) == [ControlMessage(MessageKind.BROADCAST, b"mine")]

    @pytest.mark.parametrize("size", [0, 1, 131_065, 1_000_000])
    def test_a_body_arrives_as_it_was_sent(
        self, namespace: str, opened: Callable[..., ControlConnection], size: int
    ) -> None:
        inbox, body = names.reply_name(namespace, "client"), ("ä" * (size // 2) + "x" * (size % 2)).encode()
        client, alpha = opened("client", inbox=inbox, confirms=True), opened()
        alpha.send(inbox, body, expires=60.0)
        assert _next(client, 1) == [ControlMessage(MessageKind.INBOX, body)]

    def test_what_comes_while_something_is_sent_is_kept(
        self, namespace: str, opened: Callable[..., ControlConnection]
    ) -> None:
        inbox = names.reply_name(namespace, "client")
        client = opened("client", inbox=inbox, confirms=True)
        for number in range(50):
            client.send(inbox, b"%d" % number, expires=60.0)
            client.broadcast(b"command", expires=60.0)
            client.settle()
        assert [message.body for message in _next(client, 50)] == [b"%d" % number for number in range(50)]

    def test_what_is_not_read_is_gone_after_its_time(
        self, namespace: str, opened: Callable[..., ControlConnection]
    ) -> None:
        if not self.expires_unread:
            pytest.skip("a message stays here until it is read; control drops it by the times that are in it")
        inbox = names.reply_name(namespace, "client")
        sender = opened(confirms=True)
        sender.send(inbox, b"old", expires=0.05)
        sender.settle()
        SYSTEM.sleep(0.2)
        client = opened("client", inbox=inbox, confirms=True)
        sender.send(inbox, b"new", expires=60.0)
        assert _next(client, 1) == [ControlMessage(MessageKind.INBOX, b"new")]

    def test_a_malformed_envelope_is_reported_and_the_next_message_is_read(
        self, namespace: str, worker: Callable[..., ControlConnection], put_malformed: Callable[[str], None]
    ) -> None:
        alpha, inbox = worker("alpha"), names.inbox_name(namespace, "alpha")
        for number in range(3):
            put_malformed(inbox)
            alpha.send(inbox, b"%d" % number, expires=60.0)
        received: list[Received] = []
        count = 6 if self.reports_malformed else 3
        _until(lambda: len(_collected(alpha, received)) >= count)
        assert [one.body for one in received if isinstance(one, ControlMessage)] == [b"0", b"1", b"2"]
        assert all(one.error for one in received if isinstance(one, MalformedMessage))

    # -- waiting and closing --------------------------------------------------------------------------------------------

    def test_a_wait_ends_when_another_thread_wakes_it(self, worker: Callable[..., ControlConnection]) -> None:
        alpha, pipe, ended = worker("alpha"), WakePipe(), threading.Event()
        pipe.open()

        def wait() -> None:
            began = SYSTEM.monotonic()
            while not (stopped.is_set() or SYSTEM.monotonic() - began > PATIENCE):
                alpha.wait(PATIENCE, pipe.reader)
            ended.set()

        stopped = threading.Event()
        thread = threading.Thread(target=wait)
        thread.start()
        stopped.set()
        pipe.wake()
        assert ended.wait(PATIENCE / 2)
        thread.join()
        pipe.close()

    def test_a_connection_is_closed_while_another_thread_waits(self, worker: Callable[..., ControlConnection]) -> None:
        alpha, failures = worker("alpha"), []
        waits = threading.Event()

        def wait() -> None:
            try:
                while True:
                    waits.set()
                    alpha.wait(PATIENCE)
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                failures.append(error)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert waits.wait(PATIENCE)
        alpha.close()
        thread.join(PATIENCE / 2)
        assert not thread.is_alive()
        assert [type(error) for error in failures if not isinstance(error, BrokerError)] == []
        alpha.close()

    def test_a_closed_connection_waits_at_no_other_that_has_its_descriptors_now(
        self, worker: Callable[..., ControlConnection]
    ) -> None:
        alpha = worker("alpha")
        alpha.wait(0.0)
        alpha.close()
        for name in ("bravo", "charlie", "delta"):
            worker(name)
        with pytest.raises(BrokerError):
            alpha.wait(0.2)  # at the other one it would return with nothing

    def test_g15_nothing_is_left_behind_by_what_was_closed(
        self,
        namespace: str,
        worker: Callable[..., ControlConnection],
        opened: Callable[..., ControlConnection],
        left_behind: Callable[[], Collection[str]],
    ) -> None:
        alpha, inbox = worker("alpha", heartbeats=True), names.reply_name(namespace, "client")
        client = opened("client", inbox=inbox, confirms=True)
        client.broadcast(b"command", expires=60.0)
        alpha.send(inbox, b"answer", expires=60.0)
        assert _next(client, 1)
        client.close()
        alpha.send(inbox, b"too late", expires=60.0)  # which brings nothing back that stays
        alpha.close()
        _until(lambda: not left_behind(), told=left_behind)

    def test_g15_nothing_is_left_behind_by_a_process_that_was_killed(
        self, url: str, namespace: str, left_behind: Callable[[], Collection[str]]
    ) -> None:
        if not self.forgets_the_killed:
            pytest.skip("its queues are gone after a minute")
        made: tuple[Any, Any] = self.open_template, self.make_link
        arguments = [*(f"{one.__module__}:{one.__name__}" for one in made), url, namespace]
        with subprocess.Popen([sys.executable, "-c", _LISTENER, *arguments], stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
            finally:
                process.kill()
        _until(lambda: not left_behind(), told=left_behind)

    # -- a network that fails ---------------------------------------------------------------------------------------------

    def test_a_lost_connection_is_told(
        self, namespace: str, proxied: tuple[TcpProxy, str], opened: Callable[..., ControlConnection]
    ) -> None:
        proxy, url = proxied
        inbox = names.inbox_name(namespace, "alpha")
        alpha = opened("alpha", at=url, inbox=inbox, broadcasts=True)
        alpha.wait(0.0)
        proxy.cut()
        with pytest.raises(BrokerUnavailable):
            _until(lambda: alpha.wait(1.0) and False)
        alpha.close(broken=True)
        # and its successor works
        again = opened("alpha", at=url, inbox=inbox, broadcasts=True)
        again.send(inbox, b"1", expires=60.0)
        assert _next(again, 1) == [ControlMessage(MessageKind.INBOX, b"1")]

    @pytest.mark.parametrize("changed", [False, True])
    def test_g13_a_broker_that_hangs_is_waited_for_no_longer_than_the_limit(
        self, namespace: str, proxied: tuple[TcpProxy, str], opened: Callable[..., ControlConnection], changed: bool
    ) -> None:
        if changed and not self.changes_limit:
            pytest.skip("the limit is that of the opening here")
        proxy, url = proxied
        limit = 60.0 if changed else 0.5
        client = opened("client", at=url, inbox=names.reply_name(namespace, "client"), confirms=True, limit=limit)
        client.broadcast(b"1", expires=60.0)
        client.settle()
        if changed:
            client.limit(0.5)
        proxy.stall()
        began = SYSTEM.monotonic()

        def send() -> None:
            client.broadcast(b"2", expires=60.0)
            client.settle()

        with pytest.raises(BrokerUnavailable):
            send()
        # Generous to a busy machine, and far below the minute.
        assert SYSTEM.monotonic() - began < 20.0
        client.close(broken=True)
        assert SYSTEM.monotonic() - began < 25.0
        proxy.resume()


def _next(connection: ControlConnection, count: int) -> list[ControlMessage]:
    """So many messages, however many waits they take."""
    found: list[ControlMessage] = []

    def enough() -> bool:
        for message in _without_probes(connection.wait(0.1)):
            assert isinstance(message, ControlMessage), message
            found.append(message)
        return len(found) >= count

    _until(enough, told=lambda: f"{len(found)} of {count} messages: {found[:5]}")
    return found


def _collected(connection: ControlConnection, into: list[Received]) -> list[Received]:
    into += _without_probes(connection.wait(0.1))
    return into


def _without_probes(received: Sequence[Received]) -> list[Received]:
    """What is none of the messages by which connections make sure that they receive broadcasts."""
    return [one for one in received if isinstance(one, MalformedMessage) or not one.body.startswith(b"probe-")]


def _prove(connection: ControlConnection) -> None:
    """Return once what this connection broadcasts comes back to it, and all of that."""
    sent = 0
    received: list[Received] = []
    while not received:
        connection.broadcast(b"probe-%d" % sent, expires=60.0)
        sent += 1
        received += connection.wait(0.05)
    last = ControlMessage(MessageKind.BROADCAST, b"probe-%d" % (sent - 1))
    _until(lambda: last in received or last in connection.wait(0.1))


def _until(done: Callable[[], object], told: Callable[[], object] = lambda: "") -> None:
    deadline = SYSTEM.monotonic() + PATIENCE
    while not done():
        assert SYSTEM.monotonic() < deadline, told()
        SYSTEM.sleep(0.002)
