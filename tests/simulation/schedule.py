"""One schedule: a fleet, its work, its operators and what befalls them, all drawn from one seed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from stem_kombu import timeouts
from stem_kombu.autoscale import Autoscale
from stem_kombu.control.client.directives import DirectiveClient, Ending
from stem_kombu.control.client.shutdowns import ShutdownClient
from stem_kombu.control.protocol.messages import Shutdown, ShutdownMode
from stem_kombu.directive import QUEUE, TASK, Kind
from stem_kombu.errors import StemError
from stem_kombu.ladder import Ladder
from stem_kombu.messages.encoding import encode_task
from stem_kombu.rate import Rate, RateLimit
from stem_kombu.selector import Selector
from stem_kombu.task import TaskMessage
from stem_kombu.transports import outages
from tests.faults.history import WORLD as WORLD_CLOCK
from tests.faults.history import Bounds, Event, History
from tests.faults.promises import check
from tests.faults.story import Violation
from tests.simulation import fleet, threads
from tests.simulation.fleet import SETTINGS, Client, Undoer, WorkerNode, World
from tests.simulation.kernel import KERNEL, Process
from tests.simulation.services import SimClock

#: When everything is whole again at the latest, and when it must be over, in simulated seconds.
HEALED, HORIZON = 8.0, 90.0
#: What a schedule may be about: half of them are about nothing in particular, the others draw more of one thing.
#: One seed in so many is about pauses.
_PAUSES_EVERY, _PAUSES_AT = 10, 7
#: One in a hundred of all is about rate limits instead, and one about shutdowns that are ordered.
_RARE = {47: "limits", 87: "shutdowns"}
#: And one in so many is about what else ends tasks, or lets them go on, by turns.
_STOPS_EVERY, _STOPS_AT, _STOPS = 10, 2, ("undos", "ladders", "rules")
THEMES = ("targets", "suspensions", "etas", "children", "races", "kills", "expiries", "ahead")
#: Themes with more workers, with more messages that wait in one, over a broker that mostly works as AMQP does.
_MANY_WORKERS = ("targets", "etas", "suspensions", "holds", "starts", "refusals", "resets")
_MANY_TASKS = ("ahead", "resets", "ladders")
#: With operators that take revocations back.
_UNDOS = ("undos", "revivals")
_CONNECTIONS = ("etas", "holds", "refusals", "repeats", "resets")
#: What is far away, which is no fault and excuses nothing: for each way to it at least so many seconds, and at most so many more.
_FAR_AWAY = {"starts": ("store", 0.1, 0.3), "repeats": ("backend", 0.05, 0.15), "revivals": ("backend", 0.3, 0.5)}
#: What the simulation's own observers are sure of. ``start_slack``: between the last look and a handler's first statement
#: the machine may be busy elsewhere a few times, a fifth of a second each.
BOUNDS = Bounds(
    clocks={WORLD_CLOCK: (0.0, 0.0)},
    sync_interval=SETTINGS.sync_interval,
    start_slack=0.7,
    stop_slack=1.0,
    answer_slack=1.0,
    recovery=6.0,
    child_loss=1.5,
)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a schedule. ``trouble`` is an exception that no boundary of the product had caught, or another reason
    to look into it."""

    seed: int
    violation: Violation | None
    trouble: str | None
    events: int
    switches: int
    seconds: float
    faults: dict[str, int]
    history: History

    @property
    def failed(self) -> bool:
        return self.violation is not None or self.trouble is not None


class Schedule:
    """Draws and runs."""

    def __init__(self, seed: int, theme: str | None = None) -> None:
        KERNEL.reset(seed)
        threads.FDS.reset()
        outages._servers.clear()
        self.seed = seed
        about = KERNEL.draw()
        drawn = "" if about < 0.5 else THEMES[int((about - 0.5) * 2 * len(THEMES))]
        # By the seed and not by a draw, so that every other seed's schedule stays what it was.
        drawn = _RARE.get(seed % 100, "pauses") if seed % _PAUSES_EVERY == _PAUSES_AT else drawn
        drawn = _STOPS[seed // _STOPS_EVERY % len(_STOPS)] if seed % _STOPS_EVERY == _STOPS_AT else drawn
        self.theme = drawn if theme is None else theme
        self.random = KERNEL.random
        self.draw = KERNEL.draw
        draw = self.draw
        skewed = draw() < 0.3 or self.theme == "expiries"
        self._skew: Callable[[], float] = (lambda: (draw() - 0.5) * 7200.0) if skewed else (lambda: 0.0)
        self.world = World(
            leases=draw() < (0.1 if self.theme in _CONNECTIONS else 0.5), skews=(self._skew(), self._skew())
        )
        fleet.enter(self.world)
        self.faults: dict[str, int] = {}
        self.clients: list[Process] = []
        self.busy_clients = 0
        self.sent = self.expected = 0
        #: Faults that are to come or to end.
        self.planned = 0
        self.last_send = 0.0

    def run(self) -> Result:
        draw, world, theme = self.draw, self.world, self.theme
        kind = draw() * (0.4 if theme in ("children", "ladders") else 1.0)
        if theme == "mixed":
            kind = 0.25 + kind * 0.15
        elif theme == "ahead":
            kind *= 0.25
        elif theme == "rules" and kind < 0.5:
            kind = 0.25 + kind * 0.3  # two names
        self.kinds = "isolate" if kind < 0.25 else "mixed" if kind < 0.4 else "inline"
        many = draw() + (0.5 if theme in _MANY_WORKERS else 0.0)
        count = 1 if many < 0.6 else 2 if many < 1.4 else 3
        self.nodes = [
            WorkerNode(
                name,
                self.kinds,
                concurrency=1 if draw() < 0.7 else 2,
                prefetch=1 if draw() < 0.6 and theme not in _MANY_TASKS else 3,
            )
            for name in ("alpha", "beta", "gamma")[:count]
        ]
        if draw() < 0.4:
            world.net.loss = draw() * 0.9
        if draw() < 0.3:
            world.net.double = draw() * 0.5
        if draw() < 0.4:
            world.net.lag = draw() * 0.4
        if (far := _FAR_AWAY.get(theme)) is not None:
            what, least, more = far
            world.net.slow[what] = least + draw() * more
        for node in self.nodes:
            KERNEL.at(draw() ** 2, node.start)
        tasks = (5 if theme in _MANY_TASKS else 1) + int(draw() * 3)
        for number in range(tasks):
            self._send(f"t{number}")
        for node in self.nodes:
            node.obeys_shutdowns = theme == "shutdowns"
        for number in range(1 if draw() < 0.7 else 2):
            self._operator(f"c{number}", tasks)
        for number in range(1 + int(draw() * 2) if theme == "pauses" else 0):
            self._pauser(f"p{number}")
        if theme in ("limits", "shutdowns"):
            self._steer("s0", self._limit if theme == "limits" else self._shut_down)
        if theme == "ladders":
            world.leaderless = 0.3 if draw() < 0.3 else 0.0
            for number in range(1 + int(draw() * 2)):
                self._steer(f"l{number}", self._climb, 2)
        if theme == "rules":
            world.net.loss = max(world.net.loss, draw() * 0.9)
            for number in range(1 + int(draw() * 2)):
                self._steer(f"r{number}", self._rule)
        if theme in _UNDOS:
            world.net.lag = max(world.net.lag, draw() * 1.5)
            for number in range(1 + int(draw() * 2)):
                self._steer(f"u{number}", self._undo, 3)
        for _ in range(int(draw() * 3.5)):
            self._fault(*_FAULTS[int(draw() * len(_FAULTS))])
        for name, act in _OF_THEMES.get(theme, ()):
            self._fault(name, act)
        KERNEL.at(HEALED, self._heal)
        KERNEL.at(1.0, self._look)
        KERNEL.run(HORIZON)
        history = world.history
        trouble = None
        if KERNEL.failures:
            name, error = KERNEL.failures[0]
            trouble = f"{name} ended with {error!r}"
        history.bounds = BOUNDS
        if self.backend_troubled:
            # What the roster's clock shows, as workers know it, may be late by as much as the backend was.
            for event in history:
                if event.kind == "asked":
                    event.until = None
        violation = check(history)
        if violation is None and trouble is None and not self._quiet:
            trouble = f"not quiet after {HORIZON:g} s: {self._what_is_left()}"
        result = Result(self.seed, violation, trouble, len(history), KERNEL.switches, KERNEL.now, self.faults, history)
        KERNEL.finish()
        return result

    _quiet = False
    backend_troubled = False

    # -- work -----------------------------------------------------------------------------------------------------------

    def _send(self, task_id: str) -> None:
        draw, world = self.draw, self.world
        kind = self.kinds if self.kinds != "mixed" else ("inline" if draw() < 0.5 else "isolate")
        # For repeats: short runs, most of which ask for a next attempt in about a second.
        most, power, succeed, fail = (2, 0.2, 0.1, 0.2) if self.theme == "repeats" else (5, 2, 0.6, 0.8)
        steps = int(draw() * most)
        pause = draw() ** power * 1.2
        ending = "succeeds" if (chance := draw()) < succeed else "fails" if chance < fail else "retries"
        delay = draw() ** 2 * (6.0 if self.theme in ("targets", "expiries", "starts", "rules", *_UNDOS) else 2.5)
        if self.theme == "ahead":
            pause, delay = pause * 0.2, delay * 0.3
        if self.theme == "ladders":
            # About as long as a ladder; the others are short, so that some wait in their child.
            steps, pause = 1 + steps % 2, 0.05 if draw() < 0.4 else 0.2 + draw() * 2.0
        held = draw() * 2.5 if draw() < (0.8 if self.theme in ("etas", "holds", "refusals") else 0.15) else None
        copies = 2 if draw() < 0.05 else 1

        def publish() -> None:
            clock = SimClock(_producer)
            now = clock.utcnow()
            message = TaskMessage(
                task_id,
                kind,
                args=(steps, pause, ending),
                queue=SETTINGS.default_queue,
                eta=None if held is None else _later(now, held),
                enqueued_at=now,
                max_retries=1,
            )
            for _ in range(copies):
                world.broker.publish(message.queue, encode_task(message))
                world.note("enqueued", "producer", task=task_id, value=kind)
            self.sent += 1

        self.expected += 1
        self.last_send = delay
        KERNEL.at(delay, publish)

    # -- operators ------------------------------------------------------------------------------------------------------

    def _operator(self, name: str, tasks: int) -> None:
        draw = self.draw
        plans = []
        for number in range(1 + int(draw() * 2)):
            chosen = draw()
            command = "revoke" if chosen < 0.75 else "ping" if chosen < 0.9 else "inspect"
            ids = sorted({f"t{int(draw() * tasks)}" for _ in range(1 + int(draw() * 1.5))})
            targets = None
            if draw() < (0.6 if self.theme in ("targets", "starts") else 0.1):
                meant = self.nodes[int(draw() * len(self.nodes))].name
                targets = [meant if draw() < 0.7 else f"{meant[:2]}*"]
            expires = 0.3 + draw() * 3.0 if draw() < (0.7 if self.theme in ("expiries", "refusals") else 0.2) else None
            wait = self.last_send + (draw() - 0.2) * 0.1 if self.theme == "races" else draw() ** 2 * 2.0
            plans.append((f"{name}.{number}", command, ids, draw() < 0.6, expires, targets, max(0.0, wait)))
        process = KERNEL.process(name, self._skew())
        self.clients.append(process)
        self.busy_clients += 1

        def done() -> None:
            self.busy_clients -= 1

        process.on_exit.append(done)
        KERNEL.spawn(process, self._operate, process, plans, name=name)

    def _operate(self, process: Process, plans: list[tuple[Any, ...]]) -> None:
        world = self.world
        client = Client(SETTINGS, clock=SimClock(process))
        timeout = 1.5 if self.theme in ("suspensions", "rosters") else 3.0
        for operation, command, ids, terminate, expires, targets, wait in plans:
            KERNEL.sleep(wait)
            process.operation = operation

            began, left = KERNEL.now, timeout

            def asked(
                _: object = None, operation: str = operation, command: str = command, targets: Any = targets,
                began: float = began,
            ) -> None:  # fmt: skip
                nonlocal left
                left = timeout - (KERNEL.now - began)  # what storing took is taken off the one deadline
                # It is stamped once the roster was looked at, and a worker allows for two clocks that differ a little.
                until = KERNEL.now + (1.0 + timeouts.ROSTER_SHARE) * timeout + timeouts.COMMAND_CLOCK_TOLERANCE + 0.2
                world.note(
                    "asked", process.name, request=operation, state=command, targets=targets, value=left - 1e-6,
                    until=until,
                )  # fmt: skip

            try:
                if command == "revoke":
                    report: Any = client.revoke(
                        ids, terminate=terminate, expires_in=expires, workers=targets, timeout=timeout, on_stored=asked
                    )
                else:
                    asked()
                    ask = client.ping if command == "ping" else client.inspect
                    report = ask(workers=targets, timeout=timeout)
            except StemError:
                continue
            if getattr(report, "broadcast", True):
                # Within less than a second a worker may not hear of it: it learns of the revocation at its next sync.
                silent = list(report.silent) if left >= 1.0 else []
                world.note("answered", process.name, request=operation, targets=silent)
            world.note("healed", target=process.name)
        client.close()
        KERNEL.kill(process, 0)

    def _pauser(self, name: str) -> None:
        """An operator who pauses, and resumes what does not end by itself soon."""
        draw = self.draw
        plans = []
        for _ in range(1 + int(draw() * 2)):
            node = self.nodes[int(draw() * len(self.nodes))].name
            on = None if draw() < 0.6 else [node if draw() < 0.7 else f"{node[:2]}*"]
            plans.append((draw() ** 2 * 3.0, on, 0.3 + draw() * 5.0, draw() * 4.0 if draw() < 0.7 else None))
        process = KERNEL.process(name, self._skew())
        self.clients.append(process)
        self.busy_clients += 1

        def done() -> None:
            self.busy_clients -= 1

        process.on_exit.append(done)
        KERNEL.spawn(process, self._pause, process, plans, name=name)

    def _pause(self, process: Process, plans: list[tuple[float, list[str] | None, float, float | None]]) -> None:
        clock = SimClock(process)
        client = Client(SETTINGS, clock=clock)
        directives = DirectiveClient(client, clock=clock)
        for wait, on, lasting, then in plans:
            KERNEL.sleep(wait)
            if self.kinds != "inline":
                children = 1 + int(self.draw() * 3)
                value = children if children < 3 else Autoscale(1, 3, up_after=0.5, down_after=1.0).value()
                with suppress(StemError):
                    directives.set(Kind.CONCURRENCY, {"*": value}, ending=Ending(expires_in=lasting))
            with suppress(StemError):
                directives.pause([SETTINGS.default_queue], workers=on, ending=Ending(expires_in=lasting), timeout=3.0)
            if then is not None:
                KERNEL.sleep(then)
                with suppress(StemError):
                    directives.resume([SETTINGS.default_queue], workers=on, timeout=3.0)
        client.close()
        KERNEL.kill(process, 0)

    def _steer(self, name: str, act: Callable[[Client, SimClock], None], least: int = 1) -> None:
        """An operator who does it a few times."""
        waits = [self.draw() ** 2 * 3.0 for _ in range(least + int(self.draw() * 3))]
        process = KERNEL.process(name, self._skew())
        self.clients.append(process)
        self.busy_clients += 1

        def done() -> None:
            self.busy_clients -= 1

        def main() -> None:
            clock = SimClock(process)
            client = Client(SETTINGS, clock=clock)
            for number, wait in enumerate(waits):
                KERNEL.sleep(wait)
                process.operation = f"{name}.{number}"
                with suppress(StemError):
                    act(client, clock)
            client.close()
            KERNEL.kill(process, 0)

        process.on_exit.append(done)
        KERNEL.spawn(process, main, name=name)

    def _limit(self, client: Client, clock: SimClock) -> None:
        draw = self.draw
        rates = (Rate(20, 1), Rate(2, 1), Rate(100, 60), Rate(1, 60))
        value = RateLimit(rates[int(draw() * len(rates))], each=draw() < 0.3).value()
        subject = f"{QUEUE}{SETTINGS.default_queue}" if draw() < 0.6 else f"{TASK}inline"
        ending = Ending(expires_in=0.3 + draw() * 5.0)
        DirectiveClient(client, clock=clock).set(
            Kind.RATE_LIMIT, {"*": value}, subject=subject, ending=ending, timeout=3.0
        )

    def _undo(self, client: Client, clock: SimClock) -> None:
        if Undoer(client).undo([f"t{int(self.draw() * self.expected)}"], timeout=3.0).told is not None:
            self._did("undo")

    def _climb(self, client: Client, clock: SimClock) -> None:
        draw = self.draw
        ids = {f"t{int(draw() * self.expected)}" for _ in range(1 + int(draw() * 2))}
        if draw() < 0.7:  # what runs, if anything does
            ids = {facts["task"] for process, facts in self.world.running.items() if process.alive} or ids
        term = draw() ** 2 * 1.0 if draw() < 0.6 else None
        kill = (term or 0.0) + draw() ** 2 * 1.5 if term is None or draw() < 0.8 else None
        wait = draw() < 0.3
        KERNEL.thread.process.operation = None  # to wait for verdicts is to ask several times
        report = client.revoke(
            sorted(ids), terminate=True, ladder=Ladder(term, kill), wait=wait, timeout=5.0 if wait else 3.0
        )
        self._did("ladder")
        for one in report.verdicts or ():
            self.world.note("verdict", KERNEL.thread.process.name, task=one.task_id, value=one.verdict.value)

    def _rule(self, client: Client, clock: SimClock) -> None:
        draw = self.draw
        names = ("inline", "isolate", "in*", "i*")
        KERNEL.thread.process.operation = None  # to look and to revoke is to ask several times
        wish = client.wish(Selector.of(name=names[int(draw() * len(names))]))
        if draw() < 0.3:
            wish = client.wish(wish.selector, enqueued_before=wish.before - timedelta(seconds=draw() * 2.0))
        found = client.select(wish, timeout=1.0)
        if client.revoke_selected(found, terminate=draw() < 0.6, timeout=3.0).rule is not None:
            self._did("rule")

    def _did(self, what: str) -> None:
        """Count what an operator has brought about, beside the faults."""
        self.faults[what] = self.faults.get(what, 0) + 1

    def _shut_down(self, client: Client, clock: SimClock) -> None:
        draw, node = self.draw, self._some_node()
        mode = ShutdownMode.WARM if draw() < 0.5 else ShutdownMode.SOFT
        order = Shutdown(mode, draw() * 2.0, ShutdownMode.SOFT if mode is ShutdownMode.WARM and draw() < 0.5 else None)
        self.world.note("asked", KERNEL.thread.process.name, request=KERNEL.thread.process.operation, state="shutdown")
        ShutdownClient(client, clock=clock).order(order, [node.name], 3.0)

    # -- faults -----------------------------------------------------------------------------------------------------------

    def _fault(self, name: str, act: Callable[[Schedule], None]) -> None:
        self.faults[name] = self.faults.get(name, 0) + 1
        self._plan(self.draw() * 4.0, lambda: act(self))

    def _plan(self, seconds: float, action: Callable[[], None]) -> None:
        self.planned += 1

        def act() -> None:
            self.planned -= 1
            action()

        KERNEL.at(seconds, act)

    def _kill_worker(self) -> None:
        KERNEL.kill(self._some_node().process)

    def _kill_child(self) -> None:
        children = [process for process in KERNEL.processes if process.alive and process.name.endswith("/child")]
        if children:
            victim = children[int(self.draw() * len(children))]
            for (by, _, _), run in self.world.run_of.items():
                if by == victim.worker and self._holds(victim, run):
                    self.world.note("child-killed", by, run=run)
            KERNEL.kill(victim)

    def _holds(self, process: Process, run: str) -> bool:
        return False

    def _kill_client(self) -> None:
        victim = self.clients[int(self.draw() * len(self.clients))]
        KERNEL.kill(victim)

    def _suspend(self) -> None:
        process = self._some_node().process
        if not process.alive or process.paused:
            return
        KERNEL.pause(process)
        self.world.note("fault", target=process.name, value="suspended")

        def resume() -> None:
            KERNEL.resume(process)
            self.world.note("healed", target=process.name, value="suspended")

        longest = 8.0 if self.theme == "suspensions" else 4.0
        self._plan(0.2 + self.draw() ** 2 * longest, resume)

    def _stop_worker(self) -> None:
        self._some_node().stop(None if self.draw() < 0.5 else self.draw() * 2.0)

    def _down(self, what: str) -> None:
        net, world = self.world.net, self.world
        if what in net.down:
            return
        net.down.add(what)
        world.note("fault", target=what, value="down")
        self.backend_troubled |= what == "backend"
        if what == "broker":
            self._break_connections(lambda process: True)
        self._plan(0.1 + self.draw() ** 2 * 3.0, lambda: self._up(what))

    def _up(self, what: str) -> None:
        if what in self.world.net.down:
            self.world.net.down.discard(what)
            self.world.note("healed", target=what, value="down")

    def _slow(self) -> None:
        what = "store" if self.draw() < (0.0 if self.theme == "rosters" else 0.7) else "backend"
        net, world = self.world.net, self.world
        if what in net.slow:
            return
        net.slow[what] = self.draw() ** 2 * 3.0
        self.backend_troubled |= what == "backend"
        world.note("fault", target=what, value="slow")
        self._plan(0.5 + self.draw() * 3.0, lambda: self._quick(what))

    def _quick(self, what: str) -> None:
        if self.world.net.slow.pop(what, None) is not None:
            self.world.note("healed", target=what, value="slow")

    def _cut(self) -> None:
        draw, world = self.draw, self.world
        process = self._some_node().process if draw() < 0.8 else self.clients[0]
        if not process.alive:
            return
        what = ("broker", "store", "backend")[int(draw() * 3)]
        link = (what, process.name)
        if link in world.net.cut:
            return
        world.net.cut.add(link)
        self.backend_troubled |= what == "backend"
        target = f"{what}/{process.name}"
        world.note("fault", target=target, value="cut")
        if what == "broker":
            self._break_connections(lambda other: other is process)

        def mend() -> None:
            if link in world.net.cut:
                world.net.cut.discard(link)
                world.note("healed", target=target, value="cut")

        self._plan(0.1 + draw() ** 2 * 3.0, mend)

    def _deafen(self) -> None:
        """A subscription is lost without any error."""
        ears = [ear for ear in self.world.broker.subscribed if ear.deaf_since is None]
        if not ears:
            return
        ear = ears[int(self.draw() * len(ears))]
        ear.deaf_since = KERNEL.now
        target = f"broker/{ear.process.name}"
        self.world.note("fault", target=target, value="deaf")
        ear.poke()
        ear.healed = lambda: self.world.note("healed", target=target, value="deaf")

    def _reset_connections(self) -> None:
        """Connections break, and can be made again at once."""
        process = self._some_node().process
        if not process.alive:
            return
        target = f"broker/{process.name}"
        self.world.note("fault", target=target, value="reset")
        self._break_connections(lambda other: other is process)
        self.world.note("healed", target=target, value="reset")

    def _break_connections(self, whose: Callable[[Process], bool]) -> None:
        broker = self.world.broker
        for consumer in [consumer for consumer in broker.consumers if whose(consumer.process)]:
            consumer.drop()
        for ear in [ear for ear in broker.subscribed if whose(ear.process)]:
            ear.drop()

    def _some_node(self) -> WorkerNode:
        return self.nodes[int(self.draw() * len(self.nodes))]

    # -- the end ----------------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        net = self.world.net
        for what in list(net.down):
            self._up(what)
        for what in list(net.slow):
            if what != _FAR_AWAY.get(self.theme, ("",))[0]:
                self._quick(what)
        for what, name in list(net.cut):
            net.cut.discard((what, name))
            self.world.note("healed", target=f"{what}/{name}", value="cut")

    def _look(self) -> None:
        if self._is_quiet():
            self._quiet = True
            self.world.note("quiet")
            KERNEL.over = True
            return
        KERNEL.at(0.5, self._look)

    def _is_quiet(self) -> bool:
        return (
            self.sent == self.expected
            and not self.planned
            and self.world.broker.idle
            and not self.busy_clients
            and any(node.ready for node in self.nodes)
            and not any(process.paused for process in KERNEL.processes)
            and not self._unsubscribed()
        )

    def _unsubscribed(self) -> list[str]:
        """Processes whose subscription was lost without any error, and that have not found it out yet."""
        return [one.process.name for one in self.world.broker.subscribed if one.deaf_since is not None]

    def _what_is_left(self) -> str:
        broker = self.world.broker
        held = [message.task_id for message in broker.held.values()]
        return (
            f"{sum(map(len, broker.ready.values()))} waiting, held {held}, {self.busy_clients} clients,"
            f" ready {[n.ready for n in self.nodes]}, receive no broadcasts {self._unsubscribed()}"
        )


_FAULTS: tuple[tuple[str, Callable[[Schedule], None]], ...] = (
    ("kill worker", Schedule._kill_worker),
    ("kill child", Schedule._kill_child),
    ("kill client", Schedule._kill_client),
    ("suspend worker", Schedule._suspend),
    ("stop worker", Schedule._stop_worker),
    ("broker down", lambda schedule: schedule._down("broker")),
    ("store down", lambda schedule: schedule._down("store")),
    ("backend down", lambda schedule: schedule._down("backend")),
    ("slow", Schedule._slow),
    ("cut", Schedule._cut),
    ("deaf", Schedule._deafen),
    ("reset", Schedule._reset_connections),
)

_BY_NAME = dict(_FAULTS)
_OF_THEMES = {
    theme: tuple((name, _BY_NAME[name]) for name in names)
    for theme, names in {
        "suspensions": ("suspend worker", "suspend worker"),
        "etas": ("reset", "reset", "cut"),
        "children": ("kill child", "kill child"),
        "kills": ("kill worker", "kill worker", "kill client"),
        "targets": ("kill client",),
        "pauses": ("kill worker", "stop worker"),
        "limits": ("kill worker", "stop worker", "backend down"),
        "shutdowns": ("kill worker", "deaf"),
        "rules": ("kill worker",),
        "ladders": ("suspend worker",),
        "undos": ("reset", "kill worker"),
        "ahead": ("suspend worker", "kill child"),
        # Nothing draws these: they are for a hunt that asks for them.
        "holds": ("reset", "reset", "backend down", "backend down"),
        "refusals": ("cut", "cut", "reset", "backend down", "backend down"),
        "resets": ("reset", "reset", "reset"),
        "revivals": ("kill worker", "kill worker", "kill worker"),
        "repeats": ("kill worker", "kill worker", "kill worker"),
        "rosters": ("slow", "slow", "backend down"),
        "starts": (),
        "mixed": (),
    }.items()
}

_producer = Process("producer", 2)


def _later(moment: Any, seconds: float) -> Any:
    from datetime import timedelta

    return moment + timedelta(seconds=seconds)


__all__ = ["Event", "Result", "Schedule"]
