"""What ``stem top`` asks and explains over its rows."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from stem_kombu_cli.top.actions import Plan

#: The answer to a question: the reason, and the number that was asked for.
Answer = tuple[str | None, int]

_BOX = """
{name} {{ align: center middle; }}
{name} > Vertical {{ width: 76; max-width: 95%; height: auto; max-height: 90%; border: thick $warning; padding: 1 2; }}
{name} Horizontal {{ height: auto; align: right middle; }}
{name} Button {{ margin: 1 1 0 1; }}
{name} #wrong {{ color: $error; height: 1; }}
"""


class Confirm(ModalScreen[Answer | None]):
    """Shows what will happen and asks (G36). Cancel has the focus, so that Enter and Escape change nothing. ``needs_reason``: it
    can't go on without one."""

    DEFAULT_CSS = _BOX.format(name="Confirm")
    BINDINGS = [("escape", "dismiss", "Cancel")]

    def __init__(self, plan: Plan, *, needs_reason: bool) -> None:
        super().__init__()
        self._plan, self._needs_reason = plan, needs_reason

    def compose(self) -> ComposeResult:
        plan = self._plan
        with Vertical():
            yield Static(plan.says, id="says", markup=False)
            if plan.asks is not None:
                yield Input(placeholder=plan.asks, id="number", type="integer")
            if plan.must_be_typed:
                yield Input(placeholder=f"type {plan.count} to go on", id="typed")
            yield Input(placeholder="reason" if self._needs_reason else "reason, if you like", id="reason")
            yield Static("", id="wrong", markup=False)
            with Horizontal():
                yield Button("Cancel", id="cancel")
                yield Button("Do it", id="go", variant="warning")

    def on_mount(self) -> None:
        self.query_one("#cancel", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "cancel":
            self.dismiss(None)
            return
        plan = self._plan
        reason = self._text("reason") or None
        number = self._text("number") if plan.asks is not None else "0"
        if plan.must_be_typed and self._text("typed") != str(plan.count):
            self._say(f"Type {plan.count} to go on.")
        elif plan.asks is not None and not (number.isascii() and number.isdigit() and 1 <= int(number) <= 1024):
            self._say(f"Give a number from 1 to 1024: {plan.asks}.")
        elif self._needs_reason and reason is None:
            self._say("Give a reason: STEM_REQUIRE_REASON is set.")
        else:
            self.dismiss((reason, int(number)))

    def _text(self, name: str) -> str:
        return self.query_one(f"#{name}", Input).value.strip()

    def _say(self, wrong: str) -> None:
        self.query_one("#wrong", Static).update(wrong)


class Details(ModalScreen[None]):
    """A text to read; any of its keys closes it."""

    DEFAULT_CSS = _BOX.format(name="Details") + "Details VerticalScroll { height: auto; max-height: 100%; }"
    BINDINGS = [("escape,enter,q,question_mark", "dismiss", "Close")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with Vertical(), VerticalScroll():
            yield Static(self._text, id="text", markup=False)
