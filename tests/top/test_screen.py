"""The keys of ``stem top``, by Textual's pilot (G36)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input, Static

from stem_kombu.settings import Settings
from stem_kombu_cli.top.dialogs import Confirm, Details
from stem_kombu_cli.top.model import Snapshot, Tab
from stem_kombu_cli.top.screen import TopScreen
from stem_kombu_cli.top.table import Rows
from tests.top.fleets import snapshot

GOLDEN = Path(__file__).with_name("golden")


class Fleet:
    """A fleet that stands still, and remembers what it was told to do."""

    def __init__(self, found: Snapshot, *, require_reason: bool = False) -> None:
        self.settings = Settings.from_env({"STEM_REQUIRE_REASON": str(require_reason).lower()})
        self.found = found
        self.told: list[tuple[str, Any]] = []

    def look(self) -> Snapshot:
        return self.found

    def __getattr__(self, name: str) -> Callable[..., str]:
        def told(*given: Any, **named: Any) -> str:
            self.told.append((name, *given, *named.values()))  # type: ignore[arg-type]
            return f"done: {name}"

        return told


def played(
    fleet: Fleet,
    play: Callable[[Pilot[None], TopScreen], Awaitable[None]],
    *,
    read_only: bool = False,
    size: tuple[int, int] = (200, 60),
) -> None:
    """Run the screen, wait for its first look, and play."""

    async def run() -> None:
        app = TopScreen(fleet, None if read_only else fleet, interval=3600.0)  # type: ignore[arg-type]
        async with app.run_test(size=size) as pilot:
            while app.snapshot is None:
                await pilot.pause(0.01)
            await pilot.pause()
            await play(pilot, app)

    asyncio.run(run())


async def go(pilot: Pilot[None], app: TopScreen) -> None:
    """Click on what does it, once it can be clicked again."""
    button = app.screen.query_one("#go", Button)
    while button.has_class("-active"):
        await pilot.pause(0.01)
    await pilot.click("#go")


def screen_of(app: TopScreen) -> str:
    rows = app.query_one(Rows)
    lines = [app.texts["head"], app.texts["tabs"]]
    lines += [rows.render_line(y).text.rstrip() for y in range(min(rows.size.height, len(rows.rows) + 1))]
    return "\n".join([*lines, app.texts["foot"]]) + "\n"


@pytest.mark.parametrize("size", [(80, 24), (120, 30), (200, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_each_tab_looks_as_it_is_drawn(size: tuple[int, int]) -> None:
    found: list[str] = []

    async def play(pilot: Pilot[None], app: TopScreen) -> None:
        for _ in Tab:
            found.append(screen_of(app))
            await pilot.press("right")

    played(Fleet(snapshot()), play, size=size)
    golden = GOLDEN / f"{size[0]}x{size[1]}.text"
    if not golden.exists():
        golden.parent.mkdir(exist_ok=True)
        golden.write_text("\n".join(found))
        pytest.fail(f"{golden.name} was written: look at it")
    assert "\n".join(found) == golden.read_text()


def test_a_frame_of_a_large_fleet_takes_less_than_a_tenth_of_a_second() -> None:
    fleet = Fleet(snapshot(workers=500, tasks=10_000))
    spent: list[float] = []

    async def play(pilot: Pilot[None], app: TopScreen) -> None:
        await pilot.press("right")
        rows = app.query_one(Rows)
        for number in range(5):
            began = time.thread_time()
            app.take(fleet.found)
            for y in range(rows.size.height):
                rows.render_line(y)
            spent.append(time.thread_time() - began)
            rows.move(number * 1000)

    played(fleet, play)
    assert min(spent) < 0.1, spent


def test_g36_a_key_and_enter_change_nothing() -> None:
    fleet = Fleet(snapshot())

    async def play(pilot: Pilot[None], app: TopScreen) -> None:
        for keys in (("P",), ("U",), ("S",), ("C",), ("right", "R"), ("K",), ("right", "P"), ("U",), ("right", "D")):
            await pilot.press(*keys)
            assert isinstance(app.screen, Confirm), keys
            assert app.screen.focused is app.screen.query_one("#cancel", Button)
            await pilot.press("enter")
            assert not isinstance(app.screen, Confirm)
        await pilot.press("left", "left", "R", "escape")

    played(fleet, play)
    assert fleet.told == []


def test_what_was_chosen_is_revoked_once_it_is_confirmed() -> None:
    fleet = Fleet(snapshot())

    async def play(pilot: Pilot[None], app: TopScreen) -> None:
        await pilot.press("right", "x", "j", "j", "x", "K")
        said = str(app.screen.query_one("#says", Static).render())
        assert "2 tasks (task-0, task-2)" in said
        app.screen.query_one("#reason", Input).value = "INC-42"
        await go(pilot, app)
        while not fleet.told:
            await pilot.pause(0.01)

    played(fleet, play)
    assert fleet.told == [("revoke", ["task-0", "task-2"], "INC-42", True)]


def test_a_number_is_asked_for_and_checked() -> None:
    fleet = Fleet(snapshot())

    async def play(pilot: Pilot[None], app: TopScreen) -> None:
        await pilot.press("j", "C")
        await go(pilot, app)
        assert "Give a number from 1 to 1024" in str(app.screen.query_one("#wrong", Static).render())
        app.screen.query_one("#number", Input).value = "8"
        await go(pilot, app)
        while not fleet.told:
            await pilot.pause(0.01)

    played(fleet, play)
    assert fleet.told == [("scale", ["worker-1"], 8, None)]


def test_g36_above_a_hundred_tasks_the_count_has_to_be_typed() -> None:
    fleet = Fleet(snapshot(workers=1, tasks=150))

    async def play(pilot: Pilot[None], app: TopScreen) -> None:
        await pilot.press("S")
        await go(pilot, app)
        assert "Type 150 to go on" in str(app.screen.query_one("#wrong", Static).render())
        app.screen.query_one("#typed", Input).value = "150"
        await go(pilot, app)
        while not fleet.told:
            await pilot.pause(0.01)

    played(fleet, play)
    assert fleet.told == [("shut_down", ["worker-0"], None)]


def test_a_reason_is_required_where_the_fleet_requires_one() -> None:
    fleet = Fleet(snapshot(), require_reason=True)

    async def play(pilot: Pilot[None], app: TopScreen) -> None:
        await pilot.press("right", "right", "P")
        await go(pilot, app)
        assert "STEM_REQUIRE_REASON" in str(app.screen.query_one("#wrong", Static).render())
        await pilot.click("#cancel")

    played(fleet, play)
    assert fleet.told == []


def test_read_only_changes_nothing_and_says_so() -> None:
    fleet = Fleet(snapshot())

    async def play(pilot: Pilot[None], app: TopScreen) -> None:
        await pilot.press("S", "P", "right", "R")
        assert not isinstance(app.screen, Confirm)
        assert "read-only" in screen_of(app)
        assert "read-only: revoke is off" in app.texts["said"]

    played(fleet, play, read_only=True)
    assert fleet.told == []


def test_a_filter_a_sort_and_details() -> None:
    async def play(pilot: Pilot[None], app: TopScreen) -> None:
        rows = app.query_one(Rows)
        await pilot.press("right", "slash", *"worker-1", "enter")
        assert {row["worker"] for row in rows.rows} == {"worker-1"}
        await pilot.press("s", "s", "r")
        spans = [row["runtime_s"] for row in rows.rows]
        assert spans == sorted(spans, reverse=True)
        await pilot.press("enter")
        assert isinstance(app.screen, Details)
        assert '"images.render"' in str(app.screen.query_one("#text", Static).render())
        await pilot.press("escape", "question_mark")
        assert "Capital keys change something" in str(app.screen.query_one("#text", Static).render())
        await pilot.press("escape", "slash", *["backspace"] * 8, "enter")
        assert len(rows.rows) == 5

    played(Fleet(snapshot()), play)


def test_the_cursor_stays_on_its_row_when_others_come_and_go() -> None:
    fleet = Fleet(snapshot(workers=5))

    async def play(pilot: Pilot[None], app: TopScreen) -> None:
        rows = app.query_one(Rows)
        await pilot.press("j", "j", "j")
        fewer = snapshot(workers=5)
        app.take(Snapshot("shop", "b", "", {**fewer.facts, Tab.WORKERS: list(fewer.facts[Tab.WORKERS])[2:]}))
        assert rows.current is not None
        assert rows.current["worker"] == "worker-3"
        app.take(Snapshot("shop", "b"))
        assert rows.current is None
        await pilot.press("j", "k", "x", "S", "enter")
        assert not isinstance(app.screen, Confirm)

    played(fleet, play)
