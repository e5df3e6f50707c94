"""The fleet behind ``stem top``: one look at it, and the changes that its keys ask for, by the methods of the library."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from stem_kombu import timeouts
from stem_kombu.backends.heartbeat import Liveness
from stem_kombu.clock import SYSTEM, isoformat
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.command_request import default_requester
from stem_kombu.control.client.directives import DirectiveClient
from stem_kombu.control.client.queues import QueueClient
from stem_kombu.control.client.reports import Report
from stem_kombu.control.client.shutdowns import ShutdownClient
from stem_kombu.control.directive_writer import Author
from stem_kombu.control.protocol.messages import Shutdown
from stem_kombu.directive import Kind
from stem_kombu.errors import ConfigurationError, StemError
from stem_kombu.ladder import Ladder
from stem_kombu.redaction import mask_url
from stem_kombu.settings import Settings
from stem_kombu_cli import exit_codes
from stem_kombu_cli.commands.directives_list import value_in_words
from stem_kombu_cli.directing import live_pauses, subject_of
from stem_kombu_cli.render import counted
from stem_kombu_cli.top.model import Facts, Snapshot, Tab


class Fleet:
    """Looks and acts, one at a time, from any thread. Changes raise what the client's methods raise."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._client = ControlClient(settings)
        self._queues = QueueClient(settings)
        self._directives = DirectiveClient(self._client)

    def look(self) -> Snapshot:
        """The fleet now. What can't be asked is missing, and a note says why."""
        notes: list[str] = []
        failures: list[int] = []
        facts: dict[Tab, Sequence[Facts]] = {}
        code = exit_codes.OK

        def tried(ask: Callable[[], list[Any]]) -> list[Any]:
            try:
                return ask()
            except StemError as error:
                notes.append(str(error))
                failures.append(exit_codes.of_error(error))
                return []

        def tasks() -> list[Facts]:
            nonlocal code
            report = self._client.inspect()
            code = exit_codes.of_report(report)
            return _tasks(report, notes)

        with self._lock:
            paused: dict[str, str] = {}
            facts[Tab.DIRECTIVES] = tried(partial(self._held, paused))
            facts[Tab.WORKERS] = tried(self._workers)
            facts[Tab.TASKS] = tried(tasks)
            facts[Tab.QUEUES] = tried(partial(self._states, paused, notes))
        if failures:
            code = failures[0] if len(failures) == len(facts) or code == exit_codes.OK else code
        broker, now = mask_url(self.settings.broker.value), isoformat(SYSTEM.utcnow())
        return Snapshot(self.settings.namespace, broker, now, facts, tuple(dict.fromkeys(notes)), code)

    def _held(self, paused: dict[str, str]) -> list[Facts]:
        held, now = self._directives.held()
        paused.update({one.subject or "*": f"by {one.requested_by or '-'}" for one in live_pauses(held, now)})
        return [
            {
                **one.to_record(),
                "kind": one.kind.value,
                "subject": subject_of(one),
                "value": value_in_words(one),
                "age_s": max(0.0, (now - one.issued_at).total_seconds()),
                "ends_in_s": None if one.expires_at is None else max(0.0, (one.expires_at - now).total_seconds()),
            }
            for one in reversed(held)
            if one.is_live(now)
        ]

    def _workers(self) -> list[Facts]:
        return [one.to_dict() for one in self._client.status().workers if one.liveness is not Liveness.DEAD]

    def _states(self, paused: dict[str, str], notes: list[str]) -> list[Facts]:
        report = self._queues.states()
        notes += report.notes
        everywhere = paused.get("*")
        return [
            {**one.to_dict(), "count": len(one.consumers), "paused": paused.get(one.name, everywhere)}
            for one in report.queues
        ]

    # -- changes ----------------------------------------------------------------------------------------------------

    def revoke(self, task_ids: Sequence[str], reason: str | None, *, ladder: bool = False) -> str:
        """Revoke and stop these tasks; with ``ladder`` by signals where a checkpoint does not."""
        with self._lock:
            report = self._client.revoke(
                task_ids,
                terminate=True,
                reason=reason,
                ladder=Ladder(timeouts.TOP_TERM_AFTER, timeouts.TOP_KILL_AFTER) if ladder else None,
            )
        return f"revoked {counted(len(report.stored), 'task')}{_silent(report)}"

    def pause_queues(self, queues: Sequence[str], reason: str | None) -> str:
        """Pause these queues on every worker. Raises :class:`ConfigurationError` where the broker would delete one then."""
        with self._lock:
            for queue in queues:
                if (life := self._queues.unused_life(queue)) is not None:
                    raise ConfigurationError(
                        f"the broker deletes queue {queue} when nothing consumes it for {life:g} s"
                    )
            report = self._directives.pause(queues, author=_author(reason))
        return f"paused {', '.join(queues)}{_silent(report)}"

    def resume_queues(self, queues: Sequence[str], reason: str | None) -> str:
        with self._lock:
            report = self._directives.resume(queues, author=_author(reason))
        return f"resumed {', '.join(queues)}{_silent(report)}" if report.stored else "nothing was paused there"

    def pause_workers(self, workers: Sequence[str], reason: str | None) -> str:
        """Pause all queues on these workers."""
        with self._lock:
            report = self._directives.pause(None, workers=workers, author=_author(reason))
        return f"paused {counted(len(workers), 'worker')}{_silent(report)}"

    def resume_workers(self, workers: Sequence[str], reason: str | None) -> str:
        with self._lock:
            report = self._directives.resume(None, workers=workers, author=_author(reason))
        return (
            f"resumed {counted(len(workers), 'worker')}{_silent(report)}"
            if report.stored
            else "nothing was paused there"
        )

    def scale(self, workers: Sequence[str], count: int, reason: str | None) -> str:
        """Have each of these workers run so many isolate children."""
        with self._lock:
            values = dict.fromkeys(workers, count)
            report = self._directives.set(Kind.CONCURRENCY, values, author=_author(reason))
        return f"isolate children of {counted(len(workers), 'worker')}: {count} each{_silent(report)}"

    def shut_down(self, workers: Sequence[str], reason: str | None) -> str:
        """Stop these workers once what runs there has ended."""
        with self._lock:
            order = Shutdown(reason=reason, requested_by=default_requester())
            report = ShutdownClient(self._client).order(order, workers)
        return (
            f"{counted(len(report.replies), 'worker')} will stop when their running tasks have ended{_silent(report)}"
        )

    def clear(self, versions: Sequence[int], reason: str | None) -> str:
        """End the directives of these versions."""
        with self._lock:
            report = self._directives.clear(lambda one: one.version in versions, author=_author(reason))
        return f"ended {counted(len(report.stored), 'directive')}{_silent(report)}"

    def close(self) -> None:
        """Close what it has opened; waits for a look that is under way."""
        with self._lock:
            self._client.close()
            self._queues.close()


def _author(reason: str | None) -> Author:
    return Author(default_requester(), reason)


def _silent(report: Report) -> str:
    """Who has not answered, or has refused."""
    silent = f"; no answer from {', '.join(report.silent)}" if report.silent else ""
    refused = [f"{reply.worker}: {reply.error.message}" for reply in report.replies if reply.error is not None]
    return silent + (f"; {'; '.join(refused)}" if refused else "")


def _tasks(report: Report, notes: list[str]) -> list[Facts]:
    """What runs, by what answered."""
    notes += [f"no answer from {worker}" for worker in report.silent]
    if not report.replies:
        notes.append("no worker answered")
    return [{**task, "worker": reply.worker} for reply in report.replies for task in reply.payload.get("in_flight", ())]
