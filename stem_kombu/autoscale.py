"""Isolate children by what there is to do: what an operator asks for, and what it makes of one look (G25). Pure."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import FieldError, number, whole

#: Children that a worker may have.
MOST_CHILDREN = 1024
ACCEPTED = "MIN,MAX, for example 1,8"
_PAIR = re.compile(r"(\d{1,4}),(\d{1,4})", re.ASCII)
_MOST_BACKLOG, _LONGEST = 1_000_000, 86400.0


@dataclass(frozen=True, slots=True)
class Autoscale:
    """Between ``least`` and ``most`` children. More when as many messages wait as ``backlog`` for each child, during
    ``up_after`` seconds; fewer when fewer would do during ``down_after`` seconds."""

    least: int
    most: int
    backlog: int = 1
    up_after: float = 5.0
    down_after: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most <= MOST_CHILDREN:
            raise ConfigurationError(
                f"from {self.least} to {self.most} children is no range",
                hint=f"give 1 <= MIN <= MAX <= {MOST_CHILDREN}; to stop the work itself: stem worker pause",
            )
        if not 1 <= self.backlog <= _MOST_BACKLOG:
            raise ConfigurationError(f"a backlog of {self.backlog} for each child is not from 1 to {_MOST_BACKLOG}")
        for name, seconds in (("up_after", self.up_after), ("down_after", self.down_after)):
            if not 0 <= seconds <= _LONGEST:
                raise ConfigurationError(f"{name}: {seconds:g} s is not from 0 s to 1 d")

    @classmethod
    def parse(cls, text: str, *, backlog: int = 1, up_after: float = 5.0, down_after: float = 30.0) -> Autoscale:
        """The range of ``1,8``; raises :class:`ConfigurationError` for anything else."""
        match = _PAIR.fullmatch(text.strip())
        if match is None:
            raise ConfigurationError(f"{text!r} is no range of children", hint=f"accepted: {ACCEPTED}, or off")
        return cls(int(match[1]), int(match[2]), backlog, up_after, down_after)

    def value(self) -> dict[str, object]:
        """The JSON form, as a directive's value. Whole numbers are no floats: no store writes them in another way than they
        were signed."""
        spans = {"up_after": self.up_after, "down_after": self.down_after}
        seconds = {name: int(span) if span == int(span) else span for name, span in spans.items()}
        return {"min": self.least, "max": self.most, "backlog_per_child": self.backlog, **seconds}

    @classmethod
    def of_value(cls, value: Mapping[str, object]) -> Autoscale:
        """What its JSON form asks for; raises :class:`~stem_kombu.fields.FieldError` naming the field."""
        least, most, backlog = (whole(value.get(name), name) for name in ("min", "max", "backlog_per_child"))
        spans = [number(value.get(name), name, most=_LONGEST) for name in ("up_after", "down_after")]
        try:
            return cls(least, most, backlog, *spans)
        except ConfigurationError as error:
            raise FieldError(str(error)) from None

    def __str__(self) -> str:
        return f"{self.least} to {self.most}"


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a worker: its children, those that run a task, and the messages that wait for it, which are its share of
    what waits in its queues. ``backlog`` is ``None`` where the broker can't count."""

    children: int
    busy: int
    backlog: float | None

    def wanted(self, per_child: int) -> int:
        """How many children this look asks for."""
        if self.backlog is None:
            return self.busy + 1  # one is free, so that more work would be seen
        enough = ceil(self.backlog / per_child)
        asks_for_more = self.backlog >= per_child * self.children
        return max(self.children + 1, enough) if asks_for_more else max(self.busy, enough)


class Autoscaler:
    """Of one worker under one directive. Times are monotonic.

    What every look of the last ``up_after`` seconds asked for is started, twice as many as there are at most; what no look of
    the last ``down_after`` seconds asked for goes. A change begins both spans anew.
    """

    def __init__(self, scaling: Autoscale) -> None:
        self.scaling = scaling
        self._looks: deque[tuple[float, int]] = deque()

    def decide(self, look: Look, now: float) -> int:
        """How many children there are to be from now on."""
        scaling, looks = self.scaling, self._looks
        bound = self.bounded(look.children)
        looks.append((now, self.bounded(look.wanted(scaling.backlog))))
        longest = max(scaling.up_after, scaling.down_after)
        while len(looks) > 1 and looks[1][0] <= now - longest:
            looks.popleft()
        wanted = bound
        if (least := min(self._over(scaling.up_after, now), default=bound)) > bound:
            wanted = min(least, 2 * bound)
        elif (most := max(self._over(scaling.down_after, now), default=bound)) < bound:
            wanted = most
        if wanted != look.children:
            looks.clear()
        return wanted

    def bounded(self, children: int) -> int:
        """As many, within the range."""
        return min(max(children, self.scaling.least), self.scaling.most)

    def _over(self, span: float, now: float) -> list[int]:
        """What was wanted in the last ``span`` seconds; nothing until they are over."""
        if now - self._looks[0][0] < span:
            return []
        return [wanted for at, wanted in self._looks if at >= now - span]
