"""The screen of ``stem top``: tabs, rows, a line of keys; looks at the fleet in a thread and never waits for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from textual.app import App, ComposeResult
from textual.events import Key
from textual.widgets import Input, Static

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.errors import StemError
from stem_kombu_cli.render import plain
from stem_kombu_cli.top.actions import ACTIONS, Action, Plan
from stem_kombu_cli.top.dialogs import Answer, Confirm, Details
from stem_kombu_cli.top.fleet import Fleet
from stem_kombu_cli.top.lines import foot_line, head_line
from stem_kombu_cli.top.model import COLUMNS, Facts, Order, Snapshot, Tab, rows_of
from stem_kombu_cli.top.table import Rows, next_column

HELP = """\
left right  another tab            j k up down  another row
/           filter                 s            sort by the next column
x           choose the row         r            the other way round
enter       all that is known      q            leave

Capital keys change something. They are about the rows that were chosen, else the one under the cursor; each shows what
will happen first, and Enter cancels.
"""


class Watched(Protocol):
    """Where snapshots come from; may take its time, in a thread."""

    def look(self) -> Snapshot:
        """The fleet now."""


class TopScreen(App[None]):
    """``fleet`` is asked every ``interval`` seconds; ``None`` for ``acts`` makes it a view to read. ``record`` gets
    each snapshot."""

    CSS = """
    #head, #tabs, #foot { height: 1; }
    #head { text-style: bold; }
    #said { height: auto; max-height: 3; color: $warning; }
    #filter { display: none; height: 3; }
    #filter.shown { display: block; }
    Rows { height: 1fr; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS = [
        ("left", "tab(-1)"),
        ("right", "tab(1)"),
        ("j,down", "move(1)"),
        ("k,up", "move(-1)"),
        ("pagedown", "move(20)"),
        ("pageup", "move(-20)"),
        ("home", "move(-100000)"),
        ("end", "move(100000)"),
        ("x", "choose"),
        ("s", "sort"),
        ("r", "turn"),
        ("enter", "details"),
        ("slash", "filter"),
        ("question_mark", "explain"),
        ("q", "quit"),
    ]

    def __init__(
        self, fleet: Watched, acts: Fleet | None, *, interval: float, record: Callable[[Snapshot], None] | None = None
    ) -> None:
        super().__init__()
        self._fleet, self._acts = fleet, acts
        self._interval, self._record = interval, record
        self._tab = Tab.WORKERS
        self._orders = {tab: Order() for tab in Tab}
        self._is_looking = False
        self._answer, self._answered_at = "", 0.0
        self.snapshot: Snapshot | None = None
        #: What stands in the lines around the rows, by their names: head, tabs, said, foot.
        self.texts: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        yield Static("", id="head", markup=False)
        yield Static("", id="tabs", markup=False)
        yield Rows()
        yield Input(placeholder="filter", id="filter")
        yield Static("", id="said", markup=False)
        yield Static("", id="foot", markup=False)

    def on_mount(self) -> None:
        self.query_one(Rows).focus()
        self._show()
        self._look()
        self.set_interval(self._interval, self._look)

    # -- looking ----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        if not self._is_looking:  # a fleet that answers slowly is asked again once it has answered
            self._is_looking = True
            self.run_worker(self._looked, thread=True, exit_on_error=False)

    def _looked(self) -> None:
        try:
            found = self._fleet.look()
        except StemError as error:
            self.call_from_thread(self._failed, str(error))
            return
        if self._record is not None:
            self._record(found)
        self.call_from_thread(self.take, found)

    def _failed(self, why: str) -> None:
        self._is_looking = False
        self._note([why])

    def take(self, snapshot: Snapshot) -> None:
        """Show what was found."""
        self._is_looking, self.snapshot = False, snapshot
        self._note(snapshot.notes)
        self._show()

    def _show(self) -> None:
        found, order = self.snapshot, self._orders[self._tab]
        rows = [] if found is None else rows_of(found, self._tab, order)
        self.query_one(Rows).show(self._tab, order, rows)
        counts = {tab: 0 if found is None else len(found.facts.get(tab, ())) for tab in Tab}
        tabs = [f"[{tab.value} {counts[tab]}]" if tab is self._tab else f" {tab.value} {counts[tab]} " for tab in Tab]
        wanted = f"   filter: {order.wanted} ({len(rows)})" if order.wanted else ""
        self._put("tabs", "  ".join(tabs) + wanted)
        self._put("head", head_line(found, is_read_only=self._acts is None, room=self.size.width))
        actions = () if self._acts is None else ACTIONS[self._tab]
        self._put("foot", foot_line([f"{action.key} {action.word}" for action in actions], self.size.width))

    def _put(self, name: str, text: str) -> None:
        self.texts[name] = plain(text)
        self.query_one(f"#{name}", Static).update(self.texts[name])

    def _say(self, text: str) -> None:
        """What came of a key. It stays for a while, whatever the next looks find."""
        self._answer, self._answered_at = text, SYSTEM.monotonic()
        self._put("said", text)

    def _note(self, notes: Sequence[str]) -> None:
        """What a look could not find out, below what came of the last key."""
        is_new = self._answer and SYSTEM.monotonic() - self._answered_at < timeouts.TOP_ANSWER
        self._put("said", "\n".join(part for part in (self._answer if is_new else "", "; ".join(notes)) if part))

    def on_resize(self) -> None:
        if self.snapshot is not None:
            self._show()

    # -- keys -------------------------------------------------------------------------------------------------------

    def action_tab(self, by: int) -> None:
        tabs = list(Tab)
        self._tab = tabs[(tabs.index(self._tab) + by) % len(tabs)]
        self._show()

    def action_move(self, by: int) -> None:
        self.query_one(Rows).move(by)

    def action_choose(self) -> None:
        self.query_one(Rows).choose()

    def action_sort(self) -> None:
        self._order(next_column(self._tab, self._orders[self._tab]))

    def action_turn(self) -> None:
        order = self._orders[self._tab]
        self._order(replace(order, descending=not order.descending))

    def _order(self, order: Order) -> None:
        self._orders[self._tab] = order
        self._show()

    def action_filter(self) -> None:
        line = self.query_one("#filter", Input)
        line.value = self._orders[self._tab].wanted
        line.add_class("shown")
        line.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "filter" and event.input.has_class("shown"):
            self._order(replace(self._orders[self._tab], wanted=event.value.strip()))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id == "filter":
            event.input.remove_class("shown")
            self.query_one(Rows).focus()

    def action_details(self) -> None:
        if (current := self.query_one(Rows).current) is not None:
            self.push_screen(Details(plain(json.dumps(dict(current), indent=2, default=str, ensure_ascii=False))))

    def action_explain(self) -> None:
        names = ", ".join(column.title for column in COLUMNS[self._tab])
        self.push_screen(Details(f"{HELP}\nColumns here, as many as fit: {names}"))

    def on_key(self, event: Key) -> None:
        """The capital keys of this tab."""
        if len(self.screen_stack) > 1 or isinstance(self.focused, Input):
            return
        for action in ACTIONS[self._tab]:
            if event.character == action.key:
                event.stop()
                self._ask(action, self.query_one(Rows).selected())

    def _ask(self, action: Action, rows: Sequence[Facts]) -> None:
        if self._acts is None:
            self._say(f"read-only: {action.word} is off")
        elif rows:
            plan = action.plan(rows)
            needs_reason = self._acts.settings.require_reason
            self.push_screen(Confirm(plan, needs_reason=needs_reason), partial(self._answered, plan, self._acts))

    def _answered(self, plan: Plan, fleet: Fleet, answer: Answer | None) -> None:
        if answer is None:
            self._say("cancelled: nothing was changed")
            return
        self._say("working …")
        reason, number = answer

        def act() -> None:
            try:
                said = plan.act(fleet, reason, number)
            except StemError as error:
                said = f"error: {error}"
            self.call_from_thread(self._acted, said)

        self.run_worker(act, thread=True, exit_on_error=False)

    def _acted(self, said: str) -> None:
        self.query_one(Rows).chosen.clear()
        self.notify(plain(said), markup=False)
        self._say(said)
        self._look()
