"""What befalls a fleet. Each nemesis strikes once, notes what it did, and says how it is healed.

``strike(fleet)`` returns a function that ends the fault, or ``None`` where there is nothing to strike. What it does to
whom is drawn from the fleet's generator, so that a seed repeats it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import amqp
import redis
from kombu import Connection
from kombu.exceptions import OperationalError

from tests.faults import steering
from tests.faults.fleet import Fleet, WorkerProcess

Heal = Callable[[], None]
Strike = Callable[[Fleet], Heal | None]


def _nothing() -> None:
    pass


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _one(fleet: Fleet) -> WorkerProcess | None:
    running = [worker for worker in fleet.running() if worker.ready]
    return fleet.rng.choice(running) if running else None


# -- processes ----------------------------------------------------------------------------------------------------------


def kill_worker(fleet: Fleet) -> Heal | None:
    worker = _one(fleet)
    if worker is None:
        return None
    fleet.kill_worker(worker)
    return lambda: _start_again(fleet, worker.name)


def restart_worker(fleet: Fleet) -> Heal | None:
    worker = _one(fleet)
    if worker is None:
        return None
    fleet.kill_worker(worker, signal.SIGTERM)
    return lambda: _start_again(fleet, worker.name)


def order_shutdown(fleet: Fleet) -> Heal | None:
    """By a command; the worker of that name that starts then must not obey it."""
    worker = _one(fleet)
    if worker is None:
        return None
    steering.order_shutdown(fleet, worker)
    return lambda: _start_again(fleet, worker.name)


def pause_worker(fleet: Fleet) -> Heal | None:
    worker = _one(fleet)
    if worker is None:
        return None
    fleet.note("fault", target=worker.incarnation, value="SIGSTOP")
    _signal(worker.process.pid, signal.SIGSTOP)

    def heal() -> None:
        _signal(worker.process.pid, signal.SIGCONT)
        fleet.note("healed", target=worker.incarnation, value="SIGSTOP")

    return heal


def kill_child(fleet: Fleet) -> Heal | None:
    return _to_child(fleet, signal.SIGKILL, "SIGKILL of a child")


def pause_child(fleet: Fleet) -> Heal | None:
    return _to_child(fleet, signal.SIGSTOP, "SIGSTOP of a child")


def _to_child(fleet: Fleet, number: int, what: str) -> Heal | None:
    worker = _one(fleet)
    children = worker.children() if worker is not None else []
    if worker is None or not children:
        return None
    pid = fleet.rng.choice(sorted(children))
    fleet.note("fault", target=worker.incarnation, value=what)
    _signal(pid, number)

    def heal() -> None:
        if number == signal.SIGSTOP:
            _signal(pid, signal.SIGCONT)
        fleet.note("healed", target=worker.incarnation, value=what)

    return heal


def kill_forkserver(fleet: Fleet) -> Heal | None:
    """No child can be started by the process that starts them: as when a fork fails for good."""
    worker = _one(fleet)
    pid = worker.forkserver() if worker is not None else None
    if worker is None or pid is None:
        return None
    fleet.note("fault", target=worker.incarnation, value="SIGKILL of the forkserver")
    _signal(pid, signal.SIGKILL)
    return lambda: _healed(fleet, worker.incarnation, "SIGKILL of the forkserver")


def exhaust_descriptors(fleet: Fleet) -> Heal | None:
    """The worker may open no descriptor more, and loses a child: none can be started in its place."""
    worker = _one(fleet)
    children = worker.children() if worker is not None else []
    if worker is None or not children:
        return None
    pid = worker.process.pid
    held = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max((int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()), default=0)
    fleet.note("fault", target=worker.incarnation, value="no descriptors")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, held[1]))
    _signal(fleet.rng.choice(sorted(children)), signal.SIGKILL)

    def heal() -> None:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, held)
        fleet.note("healed", target=worker.incarnation, value="no descriptors")

    return heal


def fail_forks(fleet: Fleet) -> Heal | None:
    """The forkserver may open no descriptor more (RLIMIT_NPROC doesn't bind root), and a child is lost."""
    worker = _one(fleet)
    pid = worker.forkserver() if worker is not None else None
    children = worker.children() if worker is not None else []
    if worker is None or pid is None or not children:
        return None
    held = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    fleet.note("fault", target=worker.incarnation, value="forks fail")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, held[1]))
    _signal(fleet.rng.choice(sorted(children)), signal.SIGKILL)

    def heal() -> None:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, held)
        fleet.note("healed", target=worker.incarnation, value="forks fail")

    return heal


def kill_orphan_makers(fleet: Fleet) -> Heal | None:
    """Both workers at once: nobody is there when the next revoke is asked for."""
    running = [worker for worker in fleet.running() if worker.ready]
    for worker in running:
        fleet.kill_worker(worker)
    if not running:
        return None

    def heal() -> None:
        for worker in running:
            _start_again(fleet, worker.name)

    return heal


def _start_again(fleet: Fleet, name: str) -> None:
    worker = fleet.workers[name]
    if worker.process.poll() is None and worker.expected_end:
        stop_in_order(fleet, worker)
    if worker.process.poll() is not None:
        fleet.start_worker(name)


def stop_in_order(fleet: Fleet, worker: WorkerProcess) -> None:
    """Wait for the end of a worker that got SIGTERM; ask a second time as an impatient operator does, then kill it."""
    try:
        worker.process.wait(15)
        return
    except subprocess.TimeoutExpired:
        worker.process.send_signal(signal.SIGTERM)
    try:
        worker.process.wait(30)
    except subprocess.TimeoutExpired:
        fleet.troubles.append(f"{worker.incarnation} did not stop within 30 s of its second SIGTERM")
        dump = fleet.folder / f"{worker.incarnation}.stuck"
        dump.write_text(worker.log.read_text(errors="replace"))
        fleet.kill_worker(worker)
        worker.process.wait(30)


def _healed(fleet: Fleet, target: str, value: str) -> None:
    fleet.note("healed", target=target, value=value)


# -- servers ------------------------------------------------------------------------------------------------------------


def kill_server(fleet: Fleet) -> Heal | None:
    return _to_server(fleet, "kill")


def restart_server(fleet: Fleet) -> Heal | None:
    return _to_server(fleet, "stop")


def pause_server(fleet: Fleet) -> Heal | None:
    return _to_server(fleet, "pause")


def _to_server(fleet: Fleet, act: str) -> Heal | None:
    kinds = sorted({kind for kind in fleet.kinds.values() if kind in ("redis", "volatile", "rabbitmq", "postgres")})
    if not kinds:
        return None
    kind = fleet.rng.choice(kinds)
    server = fleet.servers.get(kind)
    value = "emptied" if kind == "volatile" and act != "pause" else f"{act} {server.name}"
    roles = [role for role, of in fleet.kinds.items() if of == kind]
    for role in roles:
        fleet.note("fault", target=role, value=value)
    getattr(server, act)()
    fleet.counts.faults[f"{server.name}: {act}"] = fleet.counts.faults.get(f"{server.name}: {act}", 0) + 1

    def heal() -> None:
        server.start()
        for role in roles:
            fleet.note("healed", target=role, value=value)

    return heal


# -- links --------------------------------------------------------------------------------------------------------------


def cut(fleet: Fleet) -> Heal | None:
    return _to_link(fleet, "cut")


def half_open(fleet: Fleet) -> Heal | None:
    return _to_link(fleet, "half_open")


def stall(fleet: Fleet) -> Heal | None:
    return _to_link(fleet, "stall")


def refuse(fleet: Fleet) -> Heal | None:
    return _to_link(fleet, "stop")


def delay(fleet: Fleet) -> Heal | None:
    return _to_link(fleet, "delay", fleet.rng.choice((0.02, 0.3, 1.5)))


def slow_store(fleet: Fleet) -> Heal | None:
    """A store that answers after half a minute."""
    return _to_link(fleet, "delay", 30.0, role="store")


def _to_link(fleet: Fleet, act: str, *arguments: float, role: str | None = None) -> Heal | None:
    places = sorted(place for place in fleet.links if role in (None, place[1]))
    if not places:
        return None
    party, of = place = fleet.rng.choice(places)
    proxy = fleet.links[place]
    # One server may be all three; each of its roles has that link's trouble.
    targets = [f"{of}/{party}", *([f"backend/{party}"] if of == "store" else [])]
    value = f"{act} {arguments or ''}".strip()
    for target in targets:
        fleet.note("fault", target=target, value=value)
    getattr(proxy, act)(*arguments)

    def heal() -> None:
        if act == "stall":
            proxy.resume()
        elif act == "stop":
            proxy.start()
        elif act == "delay":
            proxy.delay(0)
            proxy.cut()  # what is under way would come for as long again
        for target in targets:
            fleet.note("healed", target=target, value=value)

    return heal


# -- disks --------------------------------------------------------------------------------------------------------------


def fill_disk(fleet: Fleet) -> Heal | None:
    """No file of the workers may grow beyond what the largest has (RLIMIT_FSIZE binds root as well): EFBIG for ENOSPC."""
    if fleet.kinds["store"] not in ("file", "sqlite"):
        return None
    running = [worker for worker in fleet.running() if worker.ready]
    if not running:
        return None
    limit = fleet.rng.choice((0, 4096))
    for worker in running:
        fleet.note("fault", target=worker.incarnation, value="disk full")
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for role in ("store", "backend", "broker"):
        fleet.note("fault", target=role, value="disk full")

    def heal() -> None:
        for worker in running:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(
                    worker.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                )
            fleet.note("healed", target=worker.incarnation, value="disk full")
        for role in ("store", "backend", "broker"):
            fleet.note("healed", target=role, value="disk full")

    return heal


# -- deliveries ---------------------------------------------------------------------------------------------------------


def shuffle_deliveries(fleet: Fleet) -> Heal | None:
    """What waits in the queue is delivered in another order, and some of it twice."""
    kind = fleet.kinds["broker"]
    if kind not in ("redis", "volatile", "rabbitmq"):
        return None
    fleet.note("fault", target="broker", value="duplicated")
    try:
        for task in (_shuffle_amqp if kind == "rabbitmq" else _shuffle_redis)(fleet):
            # It is there twice from here on, however long it waits for a worker.
            fleet.note("enqueued", "harness", task=task)
    except (OSError, *driver_errors()):
        pass  # it is down by another fault
    return lambda: _healed(fleet, "broker", "duplicated")


def driver_errors() -> tuple[type[Exception], ...]:
    """What talking to a broker raises that is down by another fault."""
    return (OperationalError, redis.RedisError, amqp.exceptions.AMQPError)


def _shuffle_redis(fleet: Fleet) -> list[str]:
    """The tasks whose messages were doubled."""
    with redis.Redis.from_url(fleet.urls["broker"], socket_timeout=2) as client:
        waiting = client.lrange("default", 0, 50)
        pipe = client.pipeline(transaction=True)
        for text in waiting:
            pipe.lrem("default", 1, text)
            pipe.rpush("default", text)
        for text in waiting[:3]:
            pipe.lpush("default", text)
        pipe.execute()
    found: list[str] = []
    for text in waiting[:3]:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # what the client threw in is no task
            found.append(json.loads(text)["headers"]["id"])
    return found


def _shuffle_amqp(fleet: Fleet) -> list[str]:
    """The same."""
    with Connection(fleet.urls["broker"], connect_timeout=2) as connection:
        channel = connection.default_channel
        taken = [message for _ in range(10) if (message := channel.basic_get("default")) is not None]
        producer = connection.Producer()
        for message in taken[:3]:
            producer.publish(
                message.body,
                routing_key="default",
                headers=message.headers,
                content_type=message.properties.get("content_type"),
                content_encoding=message.properties.get("content_encoding"),
                correlation_id=message.properties.get("correlation_id"),
                delivery_mode=2,
            )
        fleet.rng.shuffle(taken)
        for message in taken:
            channel.basic_reject(message.delivery_tag, requeue=True)
        return [message.headers["id"] for message in taken[:3] if "id" in (message.headers or {})]


#: name, weight, the strike. What heals later is healed after a few steps.
NEMESES: dict[str, tuple[int, Strike]] = {
    "SIGKILL of a worker": (4, kill_worker),
    "SIGKILL of all workers": (2, kill_orphan_makers),
    "SIGTERM of a worker": (3, restart_worker),
    "a shutdown by command": (3, order_shutdown),
    "SIGSTOP of a worker": (3, pause_worker),
    "SIGKILL of a child": (3, kill_child),
    "SIGSTOP of a child": (2, pause_child),
    "SIGKILL of a forkserver": (1, kill_forkserver),
    "descriptors used up": (2, exhaust_descriptors),
    "forks fail": (1, fail_forks),
    "a server killed": (2, kill_server),
    "a server restarted": (1, restart_server),
    "a server paused": (2, pause_server),
    "a link cut": (3, cut),
    "a link half-open": (2, half_open),
    "a link stalled": (2, stall),
    "a link refused": (2, refuse),
    "a link delayed": (2, delay),
    "a store that answers after 30 s": (1, slow_store),
    "disk full": (6, fill_disk),
    "deliveries duplicated and reordered": (2, shuffle_deliveries),
}
