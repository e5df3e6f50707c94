"""What rules cost each delivery: ``python -m benchmarks.rules``. The goal is 1 µs a rule, and nothing where there is none.

A delivery asks three times whether it is revoked: when it arrives, when a slot is free, and before its handler is called.
"""

from __future__ import annotations

import timeit
from datetime import datetime, timedelta, timezone

from stem_kombu.agent.active_rules import ActiveRules
from stem_kombu.clock import SYSTEM
from stem_kombu.rule import Rule
from stem_kombu.selector import Selector
from stem_kombu.task import TaskMessage

_ROUNDS, _REPEATS = 20_000, 5
_SELECTORS = {
    "a name": lambda number: Selector.of(name=f"shop.task-{number}"),
    "a glob": lambda number: Selector.of(name=f"shop.task-{number}.*"),
    "a glob, a queue and a header": lambda number: Selector.of(
        name="mail.*", queue="ma*", headers={"deploy": f"d-{number}"}
    ),
}


def main() -> None:
    now = datetime.now(timezone.utc)
    task = TaskMessage("t1", "mail.send", (), {"to": "ada"}, queue="mail", enqueued_at=now, headers={"deploy": "good"})
    empty = ActiveRules(SYSTEM.utcnow)
    print(f"{'no rule':<44} {_nanoseconds(lambda: empty.live and empty.match(task)):>8.0f} ns a look")
    for kind, made in _SELECTORS.items():
        for count in (1, 10, 100):
            rules = ActiveRules(SYSTEM.utcnow)
            rules.take(
                Rule("stem", str(number), number + 1, now, now + timedelta(days=7), made(number), now)
                for number in range(count)
            )
            each = _nanoseconds(lambda rules=rules: rules.live and rules.match(task)) / count  # type: ignore[misc]
            print(f"{f'{count} rules: {kind}':<44} {each:>8.0f} ns a look and rule")


def _nanoseconds(look: object) -> float:
    rounds = _ROUNDS // 10
    return min(timeit.repeat(look, number=rounds, repeat=_REPEATS)) / rounds * 1e9  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
