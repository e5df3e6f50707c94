"""The rules that this worker knows, asked of each task that no revocation names. Read without a lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import attrgetter

from stem_kombu.agent.record_sync import Subscriber
from stem_kombu.agent.resources import Resources
from stem_kombu.concurrency import threads
from stem_kombu.control.rule_records import rules_of
from stem_kombu.revocation import Revocation
from stem_kombu.rule import MOST_LIVE, PLACE, Rule
from stem_kombu.task import TaskMessage

#: Rules that are obeyed, and remembered, at most: anyone who may write to the store could add more.
_MOST = 2 * MOST_LIVE


class ActiveRules:
    """Of one worker. ``now()`` is the store's time, as far as it is known here."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        #: What counts, the oldest first; empty where there is no rule, which is asked before each look.
        self.live: tuple[Rule, ...] = ()
        self._held: dict[str, Rule] = {}
        self._lock = threads.Lock()

    def take(self, rules: Iterable[Rule]) -> bool:
        """Know these as well, whatever order they come in; whether another rule counts now than before."""
        with self._lock:
            for rule in rules:
                held = self._held.get(rule.key)
                if held is None or rule.version > held.version:
                    self._held[rule.key] = rule
            now = self._now()
            live = sorted((rule for rule in self._held.values() if rule.is_live(now)), key=attrgetter("version"))
            self._held = {rule.key: rule for rule in (*(r for r in self._held.values() if r.over), *live)[-_MOST:]}
            before, self.live = self.live, tuple(live[-_MOST:])
            return self.live != before

    def match(self, task: TaskMessage) -> Revocation | None:
        """What the first rule that strikes the task says of it, ``None`` where none does."""
        rule = self.striking(task)
        return None if rule is None else rule.revocation(task.task_id)

    def striking(self, task: TaskMessage) -> Rule | None:
        """The first rule that strikes the task."""
        for rule in self.live:
            if rule.strikes(task) and rule.is_live(self._now()):
                return rule
        return None


def rule_subscribers(apply: Callable[[Sequence[Rule]], object], resources: Resources) -> dict[str, Subscriber]:
    """What hands the rules among a store's records over, as far as a permitted key has signed them."""
    namespace, verifier = resources.settings.namespace, resources.verifier
    return {PLACE: lambda records: apply(rules_of(records, namespace, verifier))}
