"""``stem top`` as a person sees it: the real command on a real terminal, whose screen is read, before a real fleet (G36)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from stem_kombu import Stem
from stem_kombu.settings import Settings
from stem_kombu.testing.gates import Gate
from stem_kombu.testing.proxy import TcpProxy
from tests.cli.program import STEM, Program
from tests.cli.screen import Terminal, width

SMALL, LARGE = (24, 80), (60, 200)
RIGHT, TAB, BACK, ENTER, ESCAPE = "\x1b[C", "\t", "\x1b[Z", "\r", "\x1b"

Begin = Callable[..., Terminal]


@pytest.fixture
def top() -> Iterator[Begin]:
    """``top(program, "--read-only", size=SMALL)``: the view on a terminal of its own."""
    begun: list[Terminal] = []

    def begin(program: Program, *options: str, size: tuple[int, int] = SMALL, **variables: str) -> Terminal:
        lines, columns = size
        argv = [STEM, "top", "--interval", "200ms", *options]
        environment = {**program.environment, **variables}
        begun.append(Terminal(argv, env=environment, cwd=program.folder, lines=lines, columns=columns))
        return begun[-1]

    yield begin
    for one in begun:
        one.close()


def test_each_size_of_a_terminal_shows_whole_columns_and_all_keys(embedded: Program, top: Begin) -> None:
    embedded.start_worker("--name", "alpha", "-c", "1")
    small, large = top(embedded), top(embedded, size=LARGE)
    for terminal, lines in ((small, 24), (large, 60)):
        shown = terminal.until("alpha", "live")
        assert len(terminal.rows) == lines
        for word in ("namespace stem", "[Workers 1]", "Directives 0", "? help", "q leave", "S shutdown"):
            assert word in shown, word
    assert "VERSION" not in small.text and "VERSION" in large.text
    for terminal in (small, large):
        terminal.type("q")
        assert terminal.code() == 0


def test_a_terminal_whose_size_changes_shows_what_fits(embedded: Program, top: Begin) -> None:
    embedded.start_worker("--name", "alpha", "-c", "1")
    terminal = top(embedded)
    terminal.until("alpha", "live", without="VERSION")
    terminal.resize(*LARGE)
    terminal.until_so(lambda shown: "VERSION" in shown and "q leave" in shown.splitlines()[-1])
    terminal.resize(10, 40)
    terminal.until_so(lambda shown: "alpha" in shown and "P pause" in shown.splitlines()[-1])
    assert len(terminal.rows) == 10
    terminal.resize(*SMALL)
    terminal.until("alpha", "q leave", without="VERSION")
    terminal.type("q")
    assert terminal.code() == 0


def test_g36_each_key_asks_and_enter_and_escape_change_nothing(embedded: Program, top: Begin, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    embedded.start_worker("--name", "alpha", "-c", "1")
    task = embedded.send("shop.render", gate=str(gate.path))
    gate.wait_reached()
    embedded.ok("queue", "pause", "mail", "--yes")
    before = embedded.ok("audit", "list", "--json").json["entries"]
    terminal = top(embedded)
    tabs = {"[Workers 1]": ("PUCS", "live"), "[Tasks 1]": ("RK", task), "[Queues 1]": ("PU", "default")}
    for tab, (keys, row) in {**tabs, "[Directives 1]": ("D", "mail")}.items():
        terminal.until(tab, row)
        for key in keys:
            for answer in (ENTER, ESCAPE):
                terminal.type(key)
                terminal.until_so(lambda _: terminal.shows_inverse("Cancel"))
                terminal.type(answer)
                terminal.until("cancelled: nothing was changed", without="Do it")
        terminal.type(RIGHT)
    terminal.type("q")
    assert terminal.code() == 0
    assert embedded.ok("audit", "list", "--json").json["entries"] == before
    gate.open()
    assert embedded.ended(task)["state"] == "succeeded"


@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_keys_and_their_confirmation_revoke_pause_scale_and_shut_down(
    program_on: Callable[[str], Program], broker: str, top: Begin, tmp_path: Path
) -> None:
    program, gate = program_on(broker), Gate(tmp_path / "gate")
    worker = program.start_worker("--name", "alpha", "-c", "1")
    task = program.send("shop.render", gate=str(gate.path))
    gate.wait_reached()
    terminal = top(program)

    def act(key: str, says: str, reason: str = "") -> None:
        """Press the key, give a reason, and go on to the button that does it."""
        terminal.type(key)
        terminal.until(says)
        terminal.until_so(lambda _: terminal.shows_inverse("Cancel"))
        if reason:
            terminal.type(BACK)
            terminal.until_so(lambda _: not terminal.shows_inverse("Cancel"))
            terminal.type(reason)
            terminal.until(f" {reason} ")
            terminal.type(TAB)
            terminal.until_so(lambda _: terminal.shows_inverse("Cancel"))
        terminal.type(TAB)
        terminal.until_so(lambda _: terminal.shows_inverse("Do it"))
        terminal.type(ENTER)
        terminal.until_so(lambda shown: "Do it" not in shown)

    terminal.until("[Workers 1]", "alpha")
    terminal.type(RIGHT)
    terminal.until("[Tasks 1]", task)
    act("R", task, "INC-42")
    terminal.until("[Tasks 0]")
    terminal.type(RIGHT)
    terminal.until("[Queues", "default")
    act("P", "queue default")
    terminal.until("by ")
    act("U", "queue default")
    terminal.until_so(lambda shown: "default" in shown and "by " not in shown and "Do it" not in shown)
    act("P", "queue default")
    terminal.until("by ")
    terminal.type(RIGHT)
    terminal.until("[Directives 1]", "default")
    act("D", "directive")
    terminal.until("[Directives 0]")
    terminal.type(RIGHT)
    act("S", "worker alpha")
    terminal.until("[Workers 0]")
    terminal.type("q")
    assert terminal.code() == 0 and worker.wait_code() == 0
    assert program.record(task)["state"] == "cancelled"
    entries = program.ok("audit", "list", "--json").json["entries"]
    assert {"revoke", "pause", "resume", "directives clear", "shutdown"} <= {one["action"] for one in entries}
    assert "INC-42" in {entry["reason"] for entry in entries if entry["action"] == "revoke"}


def test_read_only_says_so_and_every_capital_key_is_off(embedded: Program, top: Begin) -> None:
    embedded.start_worker("--name", "alpha", "-c", "1")
    terminal = top(embedded, "--read-only")
    shown = terminal.until("alpha", "read-only")
    assert "S shutdown" not in shown
    for key, word in (("P", "pause"), ("U", "resume"), ("C", "scale"), ("S", "shutdown")):
        terminal.type(key)
        terminal.until(f"read-only: {word} is off", without="Do it")
    terminal.type("q")
    assert terminal.code() == 0


@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_a_broker_that_goes_away_is_named_and_the_view_goes_on_when_it_is_back(
    program_on: Callable[[str], Program], broker: str, top: Begin, proxy_for: Callable[[str, int], TcpProxy]
) -> None:
    program = program_on(broker)
    direct = urlsplit(program.variables["STEM_BROKER_URL"])
    assert direct.hostname is not None and direct.port is not None
    program.start_worker("--name", "alpha", "-c", "1")
    proxy = proxy_for(direct.hostname, direct.port)
    through = program.variables["STEM_BROKER_URL"].replace(f":{direct.port}", f":{proxy.port}")
    terminal = top(program, "--timeout", "2s", STEM_BROKER_URL=through)
    terminal.until("alpha", "Queues 1")
    proxy.stop()
    shown = terminal.until_so(lambda text: "alpha" in text and str(proxy.port) in "".join(text.splitlines()[2:]))
    assert "q leave" in shown and "Traceback" not in shown
    proxy.start()
    terminal.until_so(
        lambda text: "alpha" in text and "Queues 1" in text and str(proxy.port) not in "".join(text.splitlines()[2:])
    )
    terminal.type("q")
    assert terminal.code() == 0


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "200x60"])
def test_names_that_are_wide_long_or_steer_a_terminal_stay_in_their_columns(
    embedded: Program, top: Begin, tmp_path: Path, size: tuple[int, int]
) -> None:
    gate = Gate(tmp_path / "gate")
    embedded.start_worker("-A", "strange:app", "--name", "alpha", "-c", "1")
    embedded.ok("queue", "pause", "mail", "--yes", "--reason", "\x1b[2J\x1b]0;mine\x07gone")
    ids = ["plain", "雪" * 40, "n" * 200]
    names = ["請求書.作成する.とても長い名前の仕事.東京支店", "képek.ünnep.naïve-café"]
    names.append("shop.department_of_very_long_names.section_four.subsection_nine.renders_an_image_of_a_catalogue")
    with closing(Stem("client")) as client:
        client.configure(Settings.from_env(embedded.variables))
        for number, task_id in enumerate(ids):
            client.send_task(names[number % len(names)], kwargs={"gate": str(gate.path)}, task_id=task_id)
    gate.wait_reached()
    terminal = top(embedded, size=size)
    terminal.type(RIGHT)
    shown = terminal.until("[Tasks 3]", "plain", "雪")
    rows = shown.splitlines()[3:6]
    assert all(width(row) <= size[1] for row in rows), shown
    # The runtime is right-aligned: it ends in the same column, whatever stands before it.
    ends = {width(row[: row.index(" alpha")].rstrip()) for row in rows} if size is LARGE else set()
    assert len(ends) <= 1, shown
    terminal.type(ENTER)
    terminal.until('"name"')
    terminal.type(ESCAPE)
    terminal.until("plain", without='"name"')
    terminal.type("R")
    asked = terminal.until("This revokes", "Cancel")
    assert "Do it" in asked
    terminal.type(ENTER)
    terminal.until("cancelled: nothing was changed", without="Do it")
    terminal.type("q")
    assert terminal.code() == 0
    gate.open()
    for task_id in ids:
        embedded.ended(task_id)
