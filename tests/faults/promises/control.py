"""G12 to G17: commands and their answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from tests.faults.history import Event
from tests.faults.story import NONE, NOTHING, Story, Violation, first_of, name_of, sides, violation


def g12_broadcast_reaches_everyone(story: Story) -> Iterator[Violation]:
    known = {name_of(worker) for worker, facts in story.workers.items() if "up" in facts or "ready" in facts}
    for facts in story.requests.values():
        asked = first_of(facts, "asked")
        heard: dict[tuple[str | None, object], Event] = {}
        for answer in facts.get("heard", NONE):
            key = (answer.target, answer.value)
            if key in heard:
                yield violation("G12", f"{answer.target} was counted twice", heard[key], answer)
            heard[key] = answer
            if known and name_of(answer.target or "") not in known:
                yield violation("G12", f"{answer.target} is a stranger, and was counted", answer)
        if asked is None:
            continue
        for obeyed in facts.get("obeyed", NONE):
            if asked.targets is not None and not _meant(obeyed.by, asked.targets):
                yield violation("G12", "a command was obeyed by a worker that it was not meant for", asked, obeyed)


def _meant(worker: str, targets: Iterable[str]) -> bool:
    name = name_of(worker)
    return any(name == name_of(target) or fnmatchcase(name, target) for target in targets)


def g12_g16_everyone_who_can_answers(story: Story) -> Iterator[Violation]:
    """Workers that were asked, lived, could be reached all the while, and did not answer."""
    for facts in story.requests.values():
        asked, answered = first_of(facts, "asked"), first_of(facts, "answered")
        if asked is None or answered is None or not answered.targets:
            continue
        for name in answered.targets:
            for worker in story.workers:
                if name_of(worker) != name_of(name) or not story.alive(worker, asked, answered):
                    continue
                ways = (*sides(worker, "broker"), *sides(asked.by, "broker"))
                if story.disturbed(ways, asked, answered):
                    continue
                busy = _busy(story, worker, asked, answered)
                stores = sides(worker, "store", "backend")
                if busy is not None:
                    yield violation("G16", "a busy worker did not answer", busy, asked, answered)
                elif story.disturbed(stores, asked, answered):
                    yield violation("G16", "a worker did not answer while its store was down", asked, answered)
                else:
                    yield violation("G12", "a worker that could be reached did not answer", asked, answered)


def _busy(story: Story, worker: str, since: Event, until: Event) -> Event | None:
    facts = story.workers.get(worker, NOTHING)
    for busy in facts.get("busy", NONE):
        if story.before(busy, until):
            idle = next((event for event in facts.get("idle", NONE) if story.before(busy, event)), None)
            if idle is None or not story.before(idle, since):
                return busy
    return None


def _is_there(story: Story, name: str, since: Event, until: Event) -> bool:
    return any(name_of(worker) == name_of(name) and story.alive(worker, since, until) for worker in story.workers)


def g33_shutdown_is_for_this_life(story: Story) -> Iterator[Violation]:
    """An order to shut down is obeyed once, and not by a worker that starts later under the same name."""
    for facts in story.requests.values():
        asked = first_of(facts, "asked")
        if asked is None or asked.state != "shutdown":
            continue
        first: dict[str, Event] = {}
        for obeyed in facts.get("obeyed", NONE):
            before = first.setdefault(name_of(obeyed.by), obeyed)
            if before is not obeyed:
                what = "twice" if before.by == obeyed.by else "by a worker that started later"
                yield violation("G33", f"a shutdown was obeyed {what}", asked, before, obeyed)


def g13_one_deadline(story: Story) -> Iterator[Violation]:
    for facts in story.requests.values():
        asked, answered = first_of(facts, "asked"), first_of(facts, "answered")
        if asked is None or answered is None or asked.value is None:
            continue
        ways = sides(asked.by, "broker", "store", "backend")
        slack = story.bounds.answer_slack
        if slack is not None and story.apart(asked, answered) > asked.value + slack:
            if not story.disturbed((asked.by,), asked, answered):
                yield violation("G13", "a command outlived its deadline", asked, answered)
        # A named worker that is not on the roster, and does not answer within a second, is not waited for (spec/cli.md).
        named = asked.targets or ()
        missing = [one for one in answered.targets or () if one not in named or _is_there(story, one, asked, answered)]
        if missing and asked.clock == answered.clock and answered.at - asked.at < asked.value:
            if not story.disturbed(ways, asked, answered):
                yield violation("G13", "a command ended before its deadline with answers missing", asked, answered)


def g14_stale_commands_die(story: Story) -> Iterator[Violation]:
    for facts in story.requests.values():
        asked = first_of(facts, "asked")
        done: dict[tuple[str, object], Event] = {}
        for obeyed in facts.get("obeyed", NONE):
            key = (obeyed.by, obeyed.value)
            if key in done:
                yield violation("G14", "a worker carried a command out twice", done[key], obeyed)
            done[key] = obeyed
            if asked is not None and asked.until is not None:
                if story.history.between(asked.until, asked.clock, obeyed.at, obeyed.clock) > 0:
                    yield violation("G14", "a command was carried out after it had expired", asked, obeyed)


def g15_no_litter(story: Story) -> Iterator[Violation]:
    longest = story.bounds.litter
    if longest is None:
        return
    for left in story.of("left"):
        for end in story.workers.get(left.target or "", NOTHING).get("down", NONE):
            if story.apart(end, left) > longest:
                yield violation("G15", f"{left.target} left {left.value} behind", end, left)


def g17_bad_input(story: Story) -> Iterator[Violation]:
    for unpickled in story.of("unpickled"):
        yield violation("G17", "something that came from outside was executed", unpickled)
    for crashed in story.of("down"):
        if crashed.value == "crashed":
            fed = [
                event
                for event in story.of("fed")
                if event.target in (None, crashed.by, name_of(crashed.by)) and not story.before(crashed, event)
            ]
            if fed:
                yield violation("G17", "a worker ended of what it was sent", fed[-1], crashed)
    interval = story.bounds.complaint_interval
    if interval is None:
        return
    last: dict[tuple[str, object], Event] = {}
    for complained in story.of("complained"):
        key = (complained.by, complained.value)
        before = last.get(key)
        if before is not None and before.clock == complained.clock and complained.at - before.at < interval:
            yield violation("G17", "a complaint was repeated within its interval", before, complained)
        last[key] = complained
