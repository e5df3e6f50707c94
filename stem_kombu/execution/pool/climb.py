"""One climb of the ladder: the signals that a child's process group gets while it runs one job, and when.

It decides when; the child handle sends them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from math import inf

from stem_kombu import timeouts
from stem_kombu.ladder import Ladder
from stem_kombu.outcome import EndedHow, Ending, LadderStep, Outcome
from stem_kombu.revocation import Revocation


@dataclass(slots=True)
class Climb:
    """Of the job with that token alone (G27). Times are monotonic."""

    token: int
    revocation: Revocation
    term_at: float = inf
    kill_at: float = inf
    steps: tuple[LadderStep, ...] = ()

    def add(self, revocation: Revocation, ladder: Ladder, now: float) -> None:
        """Take a ladder that arrived now: the earlier of each step counts."""
        self.revocation = revocation
        if ladder.kill_after is not None:
            self.kill_at = min(self.kill_at, now + ladder.kill_after)
        if ladder.term_after is not None and not self.steps:
            self.term_at = min(self.term_at, now + ladder.term_after)

    @property
    def due(self) -> float:
        """When the next step is to be taken."""
        return min(self.term_at, self.kill_at)

    def step(self, now: float, at: datetime) -> EndedHow | None:
        """The step that is due, which counts as taken; of two the last."""
        if now < self.due:
            return None
        how = EndedHow.KILL if now >= self.kill_at else EndedHow.TERM
        self.term_at = inf
        if how is EndedHow.KILL:
            self.kill_at = inf
        self.steps = (*self.steps, LadderStep(how, at))
        return how

    def put_off(self, now: float) -> None:
        """Look at what is due again in a moment."""
        if self.term_at <= now:
            self.term_at = now + timeouts.LADDER_AGAIN
        if self.kill_at <= now:
            self.kill_at = now + timeouts.LADDER_AGAIN

    def told(self, outcome: Outcome) -> Outcome:
        """The outcome of the job, with the steps that were taken."""
        return replace(outcome, steps=self.steps) if self.steps else outcome

    def killed(self) -> Outcome:
        """What the job ends as once SIGKILL has taken effect."""
        return Outcome(Ending.CANCELLED, revocation=self.revocation, steps=self.steps)
