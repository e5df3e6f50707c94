"""``pause`` and ``resume``, under ``stem queue`` and under ``stem worker``: the same two changes, asked for in two ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import click

from stem_kombu.clock import SYSTEM, isoformat
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.directives import DirectiveClient, DirectiveReport, Ending, checked_subjects
from stem_kombu.control.client.pause_plans import PausePlan, Subject
from stem_kombu.control.client.queues import QueueClient, QueueState
from stem_kombu.directive import Directive, DirectiveDraft, is_glob
from stem_kombu.errors import StemError
from stem_kombu.rate import RateLimit
from stem_kombu.settings import Settings
from stem_kombu_cli import directing, exit_codes
from stem_kombu_cli.changing import MOST_BY_ONE_KEY, Change, change_of, changing_options, confirm, reason_of
from stem_kombu_cli.directing import author_of, await_applied, rate_of, spoken, until, warn_of_generated
from stem_kombu_cli.ending import ending_of, ending_options
from stem_kombu_cli.failure import Failure
from stem_kombu_cli.options import control_options, places_of, targets_of, wants_json
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import counted, emit, note, print_json, span, table, use_color
from stem_kombu_cli.time_left import TimeLeft

F = TypeVar("F", bound=Callable[..., object])


def pause_options(function: F) -> F:
    """What both forms of ``pause`` share."""
    return ending_options()(changing_options(control_options(function)))


def resume_options(function: F) -> F:
    """What both forms of ``resume`` share."""
    slowly = click.option("--at", metavar="RATE", help="Let tasks start slowly until the queue is empty: 10/s, 100/m.")
    return slowly(changing_options(control_options(function)))


def named(ctx: click.Context, queues: Sequence[str], all_queues: bool) -> Sequence[str] | None:
    """The queues that are named, ``None`` for all. Raises ``click.UsageError`` for neither, and for both."""
    if all_queues == bool(queues):
        raise click.UsageError(
            "name a QUEUE, or give --all-queues" if not queues else "--all-queues names them all", ctx
        )
    if not all(queue.strip() for queue in queues):
        raise click.UsageError("QUEUE is blank; give --all-queues to mean every queue", ctx)
    return None if all_queues else queues


def pause(ctx: click.Context, queues: Sequence[str] | None, values: dict[str, object]) -> None:
    """Pause these queues, ``None`` for all, and leave with the exit code."""
    asked = _Asked(ctx, queues, values)
    ending = ending_of(values, SYSTEM.utcnow())
    with Progress() as progress, ControlClient(asked.settings, on_wait=progress.answers) as client:
        directives = DirectiveClient(client)
        plan = directives.planned_pause(queues, workers=asked.targets, ending=ending, timeout=asked.left())
        if asked.change.dry_run:
            asked.show_plan("pause", plan)
        if asked.targets is None:
            asked.refuse_deletion(ending)
            asked.confirm(
                f"this pauses {asked.named} on every worker of namespace {asked.namespace!r} {_lasting(ending)}"
            )
        report = directives.pause(
            queues, workers=asked.targets, ending=ending, author=asked.author, timeout=asked.left()
        )
        asked.finish(client, report, "paused")


def resume(ctx: click.Context, queues: Sequence[str] | None, values: dict[str, Any]) -> None:
    """Resume these queues, ``None`` for all, and leave with the exit code."""
    at = rate_of(ctx, values.pop("at"))
    asked = _Asked(ctx, queues, values)
    with Progress() as progress, ControlClient(asked.settings, on_wait=progress.answers) as client:
        directives = DirectiveClient(client)
        plan = directives.planned_resume(queues, workers=asked.targets, at=at, timeout=asked.left())
        if not plan.drafts():
            raise _nothing_paused(asked)
        if asked.change.dry_run:
            asked.show_plan("resume", plan)
        if asked.targets is None:
            asked.confirm_backlog("" if at is None else f" at {at}")
        report = directives.resume(queues, workers=asked.targets, at=at, author=asked.author, timeout=asked.left())
        if not report.stored:  # another operator was quicker
            raise _nothing_paused(asked)
        asked.finish(client, report, "resumed")


class _Asked:
    """What was asked for, by the options that both share."""

    def __init__(self, ctx: click.Context, queues: Sequence[str] | None, values: dict[str, object]) -> None:
        self._ctx = ctx
        self.subjects: tuple[Subject, ...] = checked_subjects(queues)
        self.as_json, self.targets = wants_json(values), targets_of(values)
        self.change: Change = change_of(values, as_json=self.as_json)
        places = places_of(values)
        self.timeout = places.timeout
        self.settings: Settings = places.settings()
        self.left = TimeLeft(self.settings.control_timeout)
        self.namespace = self.settings.namespace
        self.author = author_of(self.change, reason_of(self.change, self.settings))
        warn_of_generated(self.targets)

    @property
    def named(self) -> str:
        if self.subjects == (None,):
            return "all queues"
        return f"queue{'' if len(self.subjects) == 1 else 's'} {', '.join(str(one) for one in self.subjects)}"

    def confirm(self, danger: str, *, count: int = 0) -> None:
        if confirm(self.change, danger, count=count):
            self.left.renew()

    def refuse_deletion(self, ending: Ending) -> None:
        """Raises :class:`Failure` where the broker would delete a queue that no worker consumes for so long, with what waits
        in it. An unknown one passes."""
        lasting = ending.expires_in
        if ending.expires_at is not None:
            lasting = (ending.expires_at - SYSTEM.utcnow()).total_seconds()
        try:
            with QueueClient(self.settings) as client:
                for name in self._names(client):
                    life = client.unused_life(name)
                    if life is not None and (lasting is None or lasting >= life):
                        raise _would_be_deleted(name, life)
        except StemError as error:
            note(f"note: could not find out whether a pause deletes {self.named}: {error}")

    def _names(self, client: QueueClient) -> list[str]:
        """The queues that are meant, as far as they are known."""
        named = [one for one in self.subjects if one is not None and not is_glob(one)]
        if len(named) == len(self.subjects):
            return named
        return [*named, *(state.name for state in client.states().queues if self._is_meant(state) and state.consumers)]

    def confirm_backlog(self, how: str) -> None:
        """Show what a resume of the fleet lets loose; more than a hundred tasks have to be confirmed."""
        try:
            with QueueClient(self.settings) as client:
                named = [one for one in self.subjects if one is not None and not is_glob(one)]
                names = named if len(named) == len(self.subjects) else []
                states = [one for one in client.states(names).queues if self._is_meant(one)]
        except StemError as error:
            note(f"note: could not count what waits in {self.named}: {error}")
            return self.confirm(f"this resumes {self.named}{how}, with an unknown number of tasks that wait")
        waiting = sum(state.depth or 0 for state in states)
        # What no live worker consumes is not let loose now.
        if any(state.depth is None and state.consumers for state in states):
            self.confirm(f"this resumes {self.named}{how}, with an unknown number of tasks that wait")
        elif waiting > MOST_BY_ONE_KEY:
            self.confirm(f"this resumes {self.named}{how}, with {counted(waiting, 'task')} that wait", count=waiting)
        elif waiting:
            note(f"waiting in {self.named}: {waiting}")
        return None

    def _is_meant(self, state: QueueState) -> bool:
        return any(one is None or one == state.name or fnmatchcase(state.name, one) for one in self.subjects)

    def show_plan(self, verb: str, plan: PausePlan) -> None:
        """Print what would be stored, and leave."""
        if self.as_json:
            document = {
                "stores": [_planned(draft) for draft in plan.set],
                "clears": [one.to_record() for one in plan.cleared],
            }
            print_json(directing.plan_document(verb, self.namespace, document))
        else:
            for draft in plan.set:
                emit(f"would store: {_what(draft)} on workers {draft.workers}{_end(draft)}")
            for one in plan.cleared:
                emit(f"would clear: version {one.version}, {_words(one)}")
        self._ctx.exit(exit_codes.OK)

    def finish(self, client: ControlClient, report: DirectiveReport, done: str) -> None:
        """Wait where that was asked for, show what came of it, and leave."""
        report = replace(report, timeout=self.left.seconds)
        if self.change.wait and report.broadcast:
            await_applied(client, report, self.targets, self.timeout)
        consumers = report.consumers(self.subjects)
        color = use_color(self._ctx.obj.color)
        lines = (
            f"{_done(one, done)}: {spoken(one.subject)} on workers {one.workers}, version {one.version}, {_how(one)}"
            for one in report.stored
        )
        directing.show(
            report,
            self.author,
            as_json=self.as_json,
            color=color,
            answers=_text(report, color),
            lines=lines,
            consumers=consumers,
        )
        if report.broadcast and not consumers and not report.unknown and not all(one.cleared for one in report.stored):
            note(
                f"hint: no worker that answered consumes {self.named}; the directive applies to workers that start later"
            )
        self._ctx.exit(directing.exit_code(report))


def _text(report: DirectiveReport, color: bool) -> str:
    rows = []
    for reply in report.replies:
        pauses = reply.payload.get("settings", {}).get("pause", {})
        paused = sorted(queue for queue, one in pauses.items() if one["value"])
        open_ = sorted(queue for queue, one in pauses.items() if not one["value"])
        back = reply.payload.get("given_back")
        rows.append((reply.worker, ",".join(paused), ",".join(open_), back, reply.payload.get("applied")))
    return table(("WORKER", "PAUSED", "CONSUMED", "GIVEN BACK", "APPLIED"), rows, color=color)


def _done(one: Directive, done: str) -> str:
    if one.cleared:
        return "cleared"
    if isinstance(one.value, Mapping):
        return f"limited to {RateLimit.of_value(one.value)}"
    return done if bool(one.value) == (done == "paused") and one.value else "exempted"


def _how(one: Directive) -> str:
    if one.cleared:
        return "no limit any more" if isinstance(one.value, Mapping) else "no pause any more"
    return until(one)


def _words(one: Directive) -> str:
    return f"{_what(one)} on workers {one.workers}, by {one.requested_by or '-'}"


def _what(one: Directive | DirectiveDraft) -> str:
    if isinstance(one.value, Mapping):
        return f"limit of {spoken(one.subject)} to {RateLimit.of_value(one.value)}"
    return f"{'pause' if one.value else 'exemption'} of {one.subject or 'all queues'}"


def _planned(draft: DirectiveDraft) -> dict[str, object]:
    return {
        "kind": draft.kind.value,
        "subject": draft.subject,
        "workers": draft.workers,
        "value": draft.value,
        "replaces": draft.replaces,
        "expires_at": None if draft.expires_at is None else isoformat(draft.expires_at),
    }


def _end(draft: DirectiveDraft) -> str:
    return "" if draft.expires_at is None else f" until {isoformat(draft.expires_at)}"


def _lasting(ending: Ending) -> str:
    if ending.expires_at is not None:
        return f"until {isoformat(ending.expires_at)}"
    return "until it is resumed" if ending.expires_in is None else f"for {span(ending.expires_in)}"


def _would_be_deleted(queue: str, life: float) -> Failure:
    when, less = (
        ("at once", "")
        if life == 0
        else (f"after {span(life)}", f"pause it for less than {span(life)} with --for, or ")
    )
    return Failure(
        f"the broker deletes queue {queue} {when} when no worker consumes it, with what waits in it; nothing was stored",
        exit_codes.REFUSED,
        hint=f"{less}pause single workers with --worker",
    )


def _nothing_paused(asked: _Asked) -> Failure:
    where = "" if asked.targets is None else f" on {', '.join(asked.targets)}"
    return Failure(
        f"nothing is paused: no live pause is about {asked.named}{where}; nothing was stored",
        exit_codes.NOTHING_MATCHED,
        hint="`stem directives list` shows the directives in force",
    )
