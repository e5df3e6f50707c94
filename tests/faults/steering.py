"""What operators ask of a tormented fleet beside revokes: pauses, children, rate limits and shutdowns (G21 to G25, G33).

Directives end by themselves after a few seconds, so that each schedule comes to its end.
"""

from __future__ import annotations

from collections.abc import Callable

from stem_kombu.autoscale import Autoscale
from stem_kombu.control.client.directives import DirectiveClient, DirectiveReport, Ending
from stem_kombu.control.client.shutdowns import ShutdownClient
from stem_kombu.control.protocol.messages import Shutdown, ShutdownMode
from stem_kombu.directive import ALL_WORKERS, QUEUE, TASK, Kind
from stem_kombu.errors import StemError
from stem_kombu.rate import Rate, RateLimit
from tests.faults.fleet import Fleet, WorkerProcess
from tests.faults.notes import now

#: Seconds for which a directive holds.
_LASTING = (0.5, 2.0, 5.0)


def pause(fleet: Fleet, timeout: float) -> None:
    """The queue of all tasks, on all workers or on some; some pauses are ended before their time."""
    directives, rng = DirectiveClient(fleet.control), fleet.rng
    workers = rng.choice((None, None, ["alpha"], ["b*"]))
    lasting = rng.choice(_LASTING)
    incarnations = {worker.name: worker.incarnation for worker in fleet.running()}
    began = now()
    fleet.note("resume-stored", "client", at=began)  # what is replaced counts no more, from some moment on
    report = directives.pause(["default"], workers=workers, ending=Ending(expires_in=lasting), timeout=timeout)
    for one in report.stored:
        if one.value is True and not one.cleared:
            fleet.note("pause-stored", "client", version=one.version, until=began + lasting, value=one.workers)
    _note_obeying(fleet, report, incarnations)
    if rng.random() < 0.5:
        fleet.note("resume-stored", "client")  # a worker may know of it from now on, whatever comes of the command
        directives.resume(["default"], workers=workers, timeout=timeout)


def scale(fleet: Fleet, timeout: float) -> None:
    """Children come and go, on all workers or on one, by an operator or by the work that waits."""
    by_work = Autoscale(1, 4, up_after=0.5, down_after=1.0).value()
    wanted = {fleet.rng.choice((ALL_WORKERS, "alpha", "bravo")): fleet.rng.choice((1, 3, 5, by_work))}
    ending = Ending(expires_in=fleet.rng.choice(_LASTING))
    DirectiveClient(fleet.control).set(Kind.CONCURRENCY, wanted, ending=ending, timeout=timeout)


def limit(fleet: Fleet, timeout: float) -> None:
    """Of the queue or of one task's name, for the fleet or each worker; some let no more than one task start while they hold."""
    rate = fleet.rng.choice((Rate(20, 1), Rate(3, 1), Rate(100, 60), Rate(1, 60)))
    value = RateLimit(rate, each=fleet.rng.random() < 0.3).value()
    subject = fleet.rng.choice((f"{QUEUE}default", f"{TASK}child.work"))
    ending = Ending(expires_in=fleet.rng.choice(_LASTING))
    DirectiveClient(fleet.control).set(
        Kind.RATE_LIMIT, {ALL_WORKERS: value}, subject=subject, ending=ending, timeout=timeout
    )


def order_shutdown(fleet: Fleet, worker: WorkerProcess) -> None:
    """A warm or soft shutdown of one worker. Where the order can't be given, the operator sends a signal."""
    mode = fleet.rng.choice((ShutdownMode.WARM, ShutdownMode.SOFT))
    then = ShutdownMode.SOFT if mode is ShutdownMode.WARM and fleet.rng.random() < 0.5 else None
    worker.expected_end = True
    fleet.note("stopping", worker.incarnation)
    try:
        order = Shutdown(mode, fleet.rng.choice((0.2, 2.0)), then, requested_by="operator")
        report = ShutdownClient(fleet.control).order(order, [worker.name], 8.0)
    except StemError:
        report = None
    if report is None or not any(reply.error is None for reply in report.replies):
        worker.process.terminate()


#: What is asked for now and then, with its weight.
OPERATIONS: tuple[tuple[int, Callable[[Fleet, float], None]], ...] = ((2, pause), (2, scale), (2, limit))


def _note_obeying(fleet: Fleet, report: DirectiveReport, incarnations: dict[str, str]) -> None:
    """Who has answered that nothing starts there any more."""
    for reply in report.replies:
        if reply.error is not None or incarnations.get(reply.worker) != fleet.workers[reply.worker].incarnation:
            continue  # which of two incarnations has answered can't be told
        setting = reply.payload["settings"].get(Kind.PAUSE.value, {}).get("default", {})
        if setting.get("value") is True and not reply.payload["starting"]:
            fleet.note("paused", incarnations[reply.worker], version=setting["version"])
