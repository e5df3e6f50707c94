"""What a pause and a resume change, planned from what the store holds. Pure.

A pause replaces the exemptions that it covers; a resume clears the pauses that it covers, and where another pause still covers
the queue, it exempts the queue from that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase

from stem_kombu.directive import ALL_WORKERS, Directive, DirectiveDraft, Key, Kind, is_glob, latest

#: Queues by name or glob; ``None`` is all queues.
Subject = str | None


@dataclass(frozen=True, slots=True)
class PausePlan:
    """``set``: pauses and exemptions to store; ``cleared``: directives that end."""

    set: Sequence[DirectiveDraft] = ()
    cleared: Sequence[Directive] = ()

    def drafts(self) -> list[DirectiveDraft]:
        """All that is to be stored, together or not at all."""
        return [*self.set, *map(DirectiveDraft.clearing, self.cleared)]


def plan_pause(
    held: Iterable[Directive],
    subjects: Sequence[Subject],
    workers: Sequence[str],
    now: datetime,
    expires_at: datetime | None = None,
) -> PausePlan:
    """Pause each of the queues on each of the workers until then."""
    known = latest(held)
    asked = [_Ground(subject, each) for subject in subjects for each in workers]
    exemptions = [one for one in _live(known.values(), now) if one.value is False]
    new = dict.fromkeys(asked)
    for one in exemptions:
        # What is narrower beats what is asked for: it is replaced as far as it is about the same queues and workers.
        for ground in asked:
            if not ground.covers(one) and ground.overlaps(one) and not ground.beats(one):
                new[ground.meet(one)] = None
    drafts = [_draft(known, ground, True, expires_at) for ground in new]
    return PausePlan(drafts, _covered(exemptions, asked, drafts))


def plan_resume(
    held: Iterable[Directive], subjects: Sequence[Subject], workers: Sequence[str] | None, now: datetime
) -> PausePlan:
    """Let the queues be consumed again: on those workers, ``None`` for all. Without workers the pauses of single workers are
    cleared as well. Nothing where nothing is paused."""
    known = latest(held)
    live = _live(known.values(), now)
    asked = [
        _Ground(subject, each) for subject in subjects for each in ((ALL_WORKERS,) if workers is None else workers)
    ]
    pauses = [one for one in live if one.value is True]
    cleared = _covered(pauses, asked, ())
    left = [one for one in pauses if one not in cleared]
    drafts = [
        _draft(known, ground, False, None)
        for ground in {ground.meet(one): None for ground in asked for one in left if ground.overlaps(one)}
    ]
    if not cleared and not drafts:
        return PausePlan()
    exemptions = [one for one in live if one.value is False]
    # An exemption from nothing would surprise the operator who pauses all queues next.
    needless = [one for one in exemptions if not any(_Ground.of(one).overlaps(pause) for pause in left)]
    return PausePlan(drafts, _covered([*cleared, *needless], asked, drafts))


def covering(held: Iterable[Directive], subject: Subject, now: datetime) -> list[Directive]:
    """The live pauses that keep a queue, or any of a glob's, from being consumed somewhere."""
    return [one for one in _live(held, now) if one.value is True and _overlaps(one, subject)]


@dataclass(frozen=True, slots=True)
class _Ground:
    """Some queues on some workers."""

    subject: Subject
    workers: str

    @classmethod
    def of(cls, one: Directive) -> _Ground:
        return cls(one.subject, one.workers)

    def covers(self, one: Directive) -> bool:
        """Whether all that the directive is about is in here."""
        return _covers(self.subject, one.subject) and _covers_workers(self.workers, one.workers)

    def overlaps(self, one: Directive) -> bool:
        """Whether some of it may be."""
        return _overlaps(one, self.subject) and _meets(one.workers, self.workers)

    def meet(self, one: Directive) -> _Ground:
        """What of it is in here."""
        return _Ground(
            one.subject if _covers(self.subject, one.subject) else self.subject,
            one.workers if _covers_workers(self.workers, one.workers) else self.workers,
        )

    def beats(self, one: Directive) -> bool:
        """Whether a newer directive about this ground counts and not that one, wherever both are about the same."""
        return self._specific() >= _Ground.of(one)._specific()

    def _specific(self) -> tuple[int, int]:
        of_workers = 0 if self.workers == ALL_WORKERS else 1 if is_glob(self.workers) else 2
        return of_workers, 0 if self.subject is None else 1 if is_glob(self.subject) else 2


def _covered(
    directives: Iterable[Directive], asked: Sequence[_Ground], drafts: Sequence[DirectiveDraft]
) -> list[Directive]:
    """What is about nothing but what is asked for, and is not replaced."""
    keys = {draft.key for draft in drafts}
    return [one for one in directives if one.key not in keys and any(ground.covers(one) for ground in asked)]


def _draft(known: dict[Key, Directive], ground: _Ground, value: bool, expires_at: datetime | None) -> DirectiveDraft:
    before = known.get((Kind.PAUSE.value, ground.subject, ground.workers))
    replaces = 0 if before is None else before.version
    return DirectiveDraft(Kind.PAUSE, ground.subject, ground.workers, value, replaces, expires_at)


def _live(held: Iterable[Directive], now: datetime) -> list[Directive]:
    return [one for one in held if one.kind is Kind.PAUSE and one.is_live(now)]


def _covers(subject: Subject, other: Subject) -> bool:
    """Whether all queues of ``other`` are among those of ``subject``."""
    if subject is None or subject == other:
        return True
    return other is not None and is_glob(subject) and fnmatchcase(other, subject)


def _covers_workers(workers: str, others: str) -> bool:
    return workers in (ALL_WORKERS, others) or (is_glob(workers) and fnmatchcase(others, workers))


def _overlaps(one: Directive, subject: Subject) -> bool:
    """Whether the directive is about that queue; about any of them where it is a glob."""
    if subject is None or one.is_about(subject) or _covers(subject, one.subject):
        return True
    return one.subject is not None and is_glob(subject) and is_glob(one.subject)


def _meets(workers: str, others: str) -> bool:
    """Whether two names or globs may be about the same worker."""
    either = _covers_workers(workers, others) or _covers_workers(others, workers)
    return either or (is_glob(workers) and is_glob(others))
