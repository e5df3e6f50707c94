"""The rows of a tab on the screen. Only those that can be seen are made into text, so that ten thousand cost no more than ten."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.strip import Strip
from textual.widget import Widget

from stem_kombu_cli.top.model import COLUMNS, KEYS, Column, Facts, Order, Tab, fitting, head, line

_HEAD, _CURSOR, _CHOSEN = Style(bold=True, underline=True), Style(reverse=True), Style(bold=True, color="yellow")
_PLAIN = Style()


class Rows(Widget, can_focus=True):
    """Rows with a cursor. ``chosen`` are the keys of those that were selected."""

    def __init__(self) -> None:
        super().__init__()
        self.tab, self.order = Tab.WORKERS, Order()
        self.rows: Sequence[Facts] = ()
        self.chosen: set[str] = set()
        self.cursor = self._top = 0

    def show(self, tab: Tab, order: Order, rows: Sequence[Facts]) -> None:
        """Show these. The cursor stays on its row while that is there."""
        key = KEYS[tab]
        if tab is not self.tab:
            self.cursor, self.chosen = 0, set()
        elif (current := self.current) is not None and rows:
            held = key(current)
            at = next((number for number, row in enumerate(rows) if key(row) == held), None)
            self.cursor = min(self.cursor, len(rows) - 1) if at is None else at
        self.tab, self.order, self.rows = tab, order, rows
        if self.chosen:
            self.chosen &= {key(row) for row in rows}
        self._follow()

    @property
    def current(self) -> Facts | None:
        """The row under the cursor."""
        return self.rows[self.cursor] if self.cursor < len(self.rows) else None

    def selected(self) -> list[Facts]:
        """The rows that were chosen, else the one under the cursor."""
        key = KEYS[self.tab]
        if self.chosen:
            return [row for row in self.rows if key(row) in self.chosen]
        return [] if self.current is None else [self.current]

    def move(self, by: int) -> None:
        """Move the cursor by so many rows."""
        self.cursor = max(0, min(len(self.rows) - 1, self.cursor + by))
        self._follow()

    def choose(self) -> None:
        """Choose the row under the cursor, or no longer."""
        if self.current is not None:
            self.chosen ^= {KEYS[self.tab](self.current)}
            self.refresh()

    @property
    def columns(self) -> list[Column]:
        return fitting(self.tab, self.size.width - 2)

    def render_line(self, y: int) -> Strip:
        """One line of the screen; the first are the titles."""
        width = self.size.width
        if y == 0:
            return Strip([Segment(f"  {head(self.columns, self.order, self.tab)}", _HEAD)]).adjust_cell_length(width)
        number = self._top + y - 1
        if number >= len(self.rows):
            return Strip.blank(width)
        row = self.rows[number]
        is_chosen = KEYS[self.tab](row) in self.chosen if self.chosen else False
        style = (_CHOSEN if is_chosen else _PLAIN) + (_CURSOR if number == self.cursor else _PLAIN)
        text = f"{'✓' if is_chosen else ' '} {line(self.columns, row)}"
        return Strip([Segment(text, style)]).adjust_cell_length(width, style)

    def on_resize(self) -> None:
        self._follow()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self.move(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self.move(-3)

    def _follow(self) -> None:
        height = max(1, self.size.height - 1)
        self._top = min(max(self._top, self.cursor - height + 1), self.cursor)
        self.refresh()


def next_column(tab: Tab, order: Order) -> Order:
    """Sorted by the next column."""
    return Order(order.wanted, (order.column + 1) % len(COLUMNS[tab]), order.descending)
