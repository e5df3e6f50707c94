"""``stem top`` on a real fleet: in a terminal, as text, and what its keys do."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from textual.widgets import Input

from stem_kombu.settings import Settings
from stem_kombu.testing.gates import Gate
from stem_kombu_cli.top.fleet import Fleet
from stem_kombu_cli.top.model import Tab
from stem_kombu_cli.top.screen import TopScreen
from stem_kombu_cli.top.table import Rows
from tests.cli.program import STEM, Program
from tests.cli.terminal import shown_at
from tests.waiting import eventually


@pytest.mark.parametrize("broker", ["embedded", "redis", "amqp"])
def test_one_look_shows_workers_tasks_queues_and_directives(
    program_on: Callable[[str], Program], broker: str, tmp_path: Path
) -> None:
    program, gate = program_on(broker), Gate(tmp_path / "gate")
    program.start_worker("--name", "alpha", "-c", "1")
    task = program.send("shop.render", gate=str(gate.path))
    gate.wait_reached()
    program.ok("queue", "pause", "mail", "--yes", "--reason", "INC-42")
    recorded = tmp_path / "looks.jsonl"
    shown = eventually(
        lambda: (found := program.ok("top", "--once", "--record", str(recorded)).out) and task in found and found, 60
    )
    assert "Workers 1" in shown and "alpha" in shown
    assert "Directives 1" in shown and "INC-42" in shown
    last = json.loads(recorded.read_text().splitlines()[-1])
    assert (last["schema"], [row["worker"] for row in last["workers"]]) == ("stem.top/1", ["alpha"])
    assert [row["id"] for row in last["tasks"]] == [task]
    assert "default" in {row["name"] for row in last["queues"]}
    gate.open()
    program.ended(task)


@pytest.mark.parametrize("size", [(24, 80), (60, 200)], ids=["80x24", "200x60"])
def test_it_runs_in_a_terminal_until_q(embedded: Program, size: tuple[int, int]) -> None:
    embedded.start_worker("--name", "alpha", "-c", "1")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    process = subprocess.Popen(
        [STEM, "top"],
        env={**embedded.environment, "TERM": "xterm-256color"},
        cwd=embedded.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while b"alpha" not in shown:
        shown += os.read(ours, 65536)
    os.write(ours, b"q")
    shown_at(ours)
    assert process.wait(60) == 0
    assert b"namespace stem" in shown


def test_without_a_terminal_it_says_what_else_there_is(embedded: Program) -> None:
    done = embedded.run("top")
    assert done.code == 2
    assert "--once" in done.err and "inspect --watch" in done.err


def test_without_the_extra_it_says_what_to_install(embedded: Program, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "textual.py").write_text("raise ImportError('not here')\n")
    ours, theirs = pty.openpty()
    environment = {**embedded.environment, "PYTHONPATH": str(hidden)}
    process = subprocess.Popen(
        [STEM, "top"], env=environment, cwd=embedded.folder, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = shown_at(ours)
    assert process.wait(60) == 2
    assert "pip install 'stem-kombu[top]'" in shown
    assert embedded.run("top", "--once", env={"PYTHONPATH": str(hidden)}).out.startswith("namespace stem")


def test_once_exits_as_the_commands_that_ask_the_same(embedded: Program) -> None:
    done = embedded.run("top", "--once", "--timeout", "1s")
    assert (done.code, "note: no worker answered" in done.out) == (69, True), done
    embedded.start_worker("--name", "alpha", "-c", "1")
    bravo = embedded.start_worker("--name", "bravo", "-c", "1")
    with bravo.paused():
        done = embedded.run("top", "--once", "--timeout", "3s")
        assert (done.code, "note: no answer from bravo" in done.out) == (3, True), done
    assert embedded.ok("top", "--once", "--timeout", "60s").out.count("live") == 2
    nowhere = {"STEM_BROKER_URL": "redis://127.0.0.1:1/0", "STEM_RESULT_BACKEND_URL": "redis://127.0.0.1:1/1"}
    assert embedded.run("top", "--once", "--timeout", "1s", env=nowhere).code == 74


def test_keys_revoke_pause_scale_and_shut_down_a_real_fleet(
    program_on: Callable[[str], Program], tmp_path: Path
) -> None:
    program, gate = program_on("redis"), Gate(tmp_path / "gate")
    worker = program.start_worker("--name", "alpha", "-c", "1")
    task = program.send("shop.render", gate=str(gate.path))
    gate.wait_reached()

    async def play(fleet: Fleet) -> None:
        app = TopScreen(fleet, fleet, interval=0.2)
        async with app.run_test(size=(200, 60)) as pilot:

            async def until(holds: Callable[[], object]) -> None:
                while not holds():
                    await pilot.pause(0.02)

            async def act(key: str, number: str = "") -> None:
                rows = app.query_one(Rows)
                await until(lambda: rows.current is not None)
                await pilot.press(key)
                app.screen.query_one("#reason", Input).value = "INC-42"
                if number:
                    app.screen.query_one("#number", Input).value = number
                await pilot.pause()
                await pilot.click("#go")

            def facts(tab: Tab) -> list[dict[str, object]]:
                return [dict(each) for each in app.snapshot.facts[tab]] if app.snapshot is not None else []

            await act("C", "2")
            await until(lambda: any(row["kind"] == "concurrency" for row in facts(Tab.DIRECTIVES)))
            await pilot.press("right")
            await act("R")
            await until(lambda: app.snapshot is not None and not facts(Tab.TASKS))
            await pilot.press("right")
            await act("P")
            await until(lambda: any(row["paused"] for row in facts(Tab.QUEUES)))
            await act("U")
            await until(lambda: not any(row["paused"] for row in facts(Tab.QUEUES)))
            await pilot.press("right")
            await act("D")
            await until(lambda: not facts(Tab.DIRECTIVES))
            await pilot.press("right")
            await act("S")
            await until(lambda: not facts(Tab.WORKERS))

    with closing(Fleet(Settings.from_env(program.variables))) as fleet:
        asyncio.run(play(fleet))
    assert worker.wait_code() == 0
    assert program.record(task)["state"] == "cancelled"
    actions = [entry["action"] for entry in program.ok("audit", "list", "--json").json["entries"]]
    assert {"scale", "revoke", "pause", "resume", "directives clear", "shutdown"} <= set(actions)
