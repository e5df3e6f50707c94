"""How many tasks may start in how much time, as an operator writes it (``10/s``) and as a directive holds it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import FieldError, flag, number, optional, whole

ACCEPTED = "10/s, 100/m, 5000/h"

#: Of the units of time in which rates are written.
SECONDS = {"s": 1, "m": 60, "h": 3600}
_PATTERN = re.compile(r"(\d{1,9})/([smh])", re.ASCII)
#: More is no limit: no worker starts so many.
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """``tasks`` in ``seconds``; at least one task."""

    tasks: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """The rate of ``10/s``, ``100/m`` or ``5000/h``; raises :class:`ConfigurationError` for anything else."""
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise ConfigurationError(f"{text!r} is no rate", hint=f"accepted: {ACCEPTED}, or default for none")
        tasks, seconds = int(match[1]), SECONDS[match[2]]
        if tasks == 0:
            raise ConfigurationError(f"{text!r} starts no task at all", hint="to stop the work: stem queue pause")
        if tasks > _MOST * seconds:
            raise ConfigurationError(f"{text!r} is more than {_MOST}/s", hint="give default for no limit")
        return cls(tasks, seconds)

    @property
    def interval(self) -> float:
        """Seconds between two starts."""
        return self.seconds / self.tasks

    def __str__(self) -> str:
        units = {seconds: unit for unit, seconds in SECONDS.items()}
        return f"{self.tasks}/{units.get(int(self.seconds), f'{self.seconds:g}s')}"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What a directive of the kind ``rate-limit`` asks for. ``each``: the rate is each worker's, else it is that of all workers
    together. ``until_empty``: it ends when the queue is empty."""

    rate: Rate
    each: bool = False
    until_empty: bool = False

    def value(self) -> dict[str, object]:
        """The JSON form, as a directive's value."""
        seconds = self.rate.seconds
        # Whole numbers, which no store writes in another way than they were signed.
        whole_seconds = int(seconds) if seconds == int(seconds) else seconds
        ends = {"until_empty": True} if self.until_empty else {}
        return {"tasks": self.rate.tasks, "seconds": whole_seconds, "each": self.each, **ends}

    @classmethod
    def of_value(cls, value: Mapping[str, object]) -> RateLimit:
        """The limit of its JSON form; raises :class:`~stem_kombu.fields.FieldError` naming the field."""
        tasks = whole(value.get("tasks"), "tasks", below=_MOST * 3600 + 1)
        seconds = number(value.get("seconds"), "seconds", most=86400.0)
        if not tasks or not seconds:
            raise FieldError(f"{tasks} tasks in {seconds:g} seconds is no rate")
        each, ends = (bool(optional(flag, value.get(name), name)) for name in ("each", "until_empty"))
        return cls(Rate(tasks, seconds), each, ends)

    def __str__(self) -> str:
        return f"{self.rate}{' each' if self.each else ''}{' until the queue is empty' if self.until_empty else ''}"
