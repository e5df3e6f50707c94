"""What each command prints, in text, in JSON and on terminals of 80, 120 and 200 columns, held against files in ``golden/``.

What differs from run to run is written as its kind: ``<time>``, ``<span>``, ``<id>``. In JSON a value is written as its
type, but for words that scripts compare (``schema``, ``state``, ``code`` …). For terminals (``NAME.columns``) it is written
as a value of a usual length, before the table is laid out. A change that is meant is written by running this test with
``STEM_TEST_GOLDEN=write``, and read in the diff.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from stem_kombu.testing.gates import Gate
from stem_kombu.testing.ports import free_port
from stem_kombu_cli import render
from stem_kombu_cli.main import cli, run
from tests.cli.program import Done, Program

GOLDEN = Path(__file__).with_name("golden")
WRITES = os.environ.get("STEM_TEST_GOLDEN") == "write"
#: Fields of JSON whose values are part of what is promised.
WORDS = {
    "schema", "command", "status", "state", "code", "component", "standing", "complete", "broadcast", "terminate", "mode",
    "worker_state", "name", "worker", "namespace", "consuming", "action", "kind", "verdict", "dry_run",
}  # fmt: skip
#: What differs from run to run, in text, in the order in which it is replaced.
VARIES = [
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<time>"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"sqlite:/{1,3}\S+/(\w+\.db)"), r"sqlite:///<folder>/\1"),
    (re.compile(r"/\S*pytest-of-\S*/"), "/<folder>/"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:<port>"),
    (re.compile(r"(?<![\w.])\d+(\.\d+)?(ms|us|µs|s|m|h|d)(\d\d[smh])?(?![\w.])"), "<span>"),
    (re.compile(r"(?<![\w.])\d+(\.\d+)? [kMG]?B(?!\w)"), "<size>"),
    (re.compile(r"version \d[\d.]*"), "version <n>"),
    # How many there were before is a matter of which tests have run.
    (re.compile(r"\b\d+ (received|started|succeeded|failed|retried|cancelled|redelivered|held)\b"), r"<n> \1"),
    (re.compile(r"^process .*"), "process  <host>, <pid>, <size>, load <n>"),
    (re.compile(r"(?<=[A-Za-z0-9_]@)[\w.-]+"), "<host>"),
    (re.compile(rf"\b{re.escape(socket.gethostname())}\b"), "<host>"),
    # A heartbeat may be of the moment when a case before had its task run.
    (re.compile(r"\b\d+ running tasks?\b"), "<n> running tasks"),
    (re.compile(r"(?<!\S)\d+/(?=\d+(?!\S))"), "0/"),
    (re.compile(r"\b\d{16}\b"), "<version>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<print>"),
    (re.compile(r"\b\d+ (records|live|expired|terminate|signed)\b"), r"<n> \1"),
    (re.compile(r"\b1 to \d+(?=, not)"), "1 to <n>"),
    (re.compile(r"(?<=may open )[\d,]+"), "<n>"),
    (re.compile(r"\d\.\d s (ahead of|behind)"), "0.0 s ahead of"),
    (re.compile(r"\b[0-9a-f]{32,}\b|(?<==)[\w+/-]{16,}=*|(?<=:)[\w+/-]{40,}=*|\b\d+ entr(y|ies)\b"), "<text>"),
]


WHO = ("--yes", "--reason", "INC-42", "--requester", "ops@desk")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One worker, ``alpha``, on the embedded broker, with two tasks that have ended; the second was revoked after its end."""
    folder = tmp_path_factory.mktemp("golden")
    program = Program(
        folder,
        {
            "STEM_BROKER_URL": f"sqlite://{folder / 'broker.db'}",
            "STEM_RESULT_BACKEND_URL": f"sqlite://{folder / 'state.db'}",
            "STEM_CONTROL_TIMEOUT": "30s",
        },
    )
    try:
        program.start_worker("--name", "alpha", "--concurrency", "1", "--health-file", str(folder / "alpha.health"))
        for task in ("ended-task", "shown-task"):
            program.ended(program.send("shop.add", "--id", task, a=1))
        program.ended(program.send("shop.fails", "--id", "failed-task"))
        for task in ("kept-task", "kept-too"):
            program.send("shop.add", "--id", task, "--queue", "kept", a=1)
        program.run("worker", "revoke", "-t", "shown-task", "--requester", "ops@desk")
        program.ok("worker", "revoke", "--name", "shop.add", "--queue", "kept", "--for", "7d", *WHO)
        yield program
    finally:
        program.close()


NOWHERE = ("--broker", "redis://127.0.0.1:{port}/0")
PAUSE, RESUME = ("queue", "pause", "default", *WHO), ("queue", "resume", "default", *WHO)
UNDO_ALL = ("directives", "clear", "--all", *WHO)
#: name: (arguments, exit code). All but the last of each name run in text and in JSON. The probe comes first: until the next
#: heartbeat it may see a pause that has ended.
CASES: dict[str, tuple[tuple[str, ...], int]] = {
    "healthcheck": (("worker", "healthcheck", "--file", "{health}"), 0),
    "ping": (("worker", "ping"), 0),
    "ping-nobody": (("worker", "ping", "-n", "elsewhere", "--timeout", "300ms"), 69),
    "ping-partial": (("worker", "ping", "-w", "alpha", "-w", "ghost", "--timeout", "1s"), 3),
    "ping-unknown": (("worker", "ping", "-w", "ghost", "--timeout", "300ms"), 4),
    "ping-unreachable": (("worker", "ping", *NOWHERE), 74),
    "ping-usage": (("worker", "ping", "--timeout", "soon"), 2),
    "inspect": (("worker", "inspect"), 0),
    "stats": (("worker", "stats"), 0),
    "status": (("worker", "status"), 0),
    "status-unknown": (("worker", "status", "-w", "ghost"), 4),
    "call": (("worker", "call", "double", "--args", '{"number": 2}'), 0),
    "call-unknown": (("worker", "call", "nothing"), 1),
    "revoke": (("worker", "revoke", "-t", "later", "--reason", "INC-42", "--requester", "ops@desk"), 0),
    "revoke-unknown": (("worker", "revoke", "-t", "typo", "--terminate", "--requester", "ops@desk"), 4),
    "revoke-finished": (("worker", "revoke", "-t", "ended-task", "--requester", "ops@desk"), 1),
    "revoke-runs": (("worker", "revoke", "-t", "running-task", "--terminate", "--timeout", "2s", "--requester", "ops@desk"), 3),
    "revoke-unreachable": (("worker", "revoke", "-t", "any", "--revoke-store", "redis://127.0.0.1:{port}/0"), 74),
    "task-send": (("task", "send", "shop.nothing", "--queue", "unread"), 0),
    "task-show": (("task", "show", "shown-task"), 0),
    "task-show-unknown": (("task", "show", "no-such-task"), 4),
    "health": (("health",), 0),
    "health-unreachable": (("health", *NOWHERE), 74),
    "keys-check-refused": (("keys", "check"), 2),
    "shutdown": (("worker", "shutdown", "-w", "alpha", "--dry-run"), 0),
    "pause": (("worker", "pause", "-q", "default", *WHO), 0),
    "resume": (("worker", "resume", "-q", "default", *WHO), 0),
    "log-level": (("worker", "log-level", "error", *WHO), 0),
    "scale": (("worker", "scale", "2", "-w", "alpha", *WHO), 0),
    "autoscale": (("worker", "autoscale", "1,2", "-w", "alpha", *WHO), 0),
    "rate-limit": (("worker", "rate-limit", "10/s", "-q", "default", *WHO), 0),
    "healthcheck-unknown": (("worker", "healthcheck", "--name", "ghost"), 4),
    "diagnose": (("worker", "diagnose"), 0),
    "sweep": (("worker", "sweep"), 0),
    "queue-list": (("queue", "list", "default", "kept", "typo"), 0),
    "queue-peek": (("queue", "peek", "kept"), 0),
    "queue-pause": (PAUSE, 0),
    "queue-pause-declined": (("queue", "pause", "default"), 5),
    "queue-resume": (RESUME, 0),
    "queue-resume-nothing": (("queue", "resume", "kept", *WHO), 4),
    "queue-purge": (("queue", "purge", "purged", *WHO), 0),
    "queue-purge-nothing": (("queue", "purge", "empty", *WHO), 4),
    "directives-list": (("directives", "list"), 0),
    "directives-clear": (UNDO_ALL, 0),
    "directives-clear-nothing": (UNDO_ALL, 4),
    "task-list": (("task", "list", "--queue", "kept"), 0),
    "task-list-failed": (("task", "list", "--state", "failed", "--name", "shop.fails"), 0),
    "task-retry": (("task", "retry", "failed-task", "kept-task", "typo", "--dry-run"), 3),
    "revokes-list": (("revokes", "list", "--task", "shown-task"), 0),
    "revokes-show": (("revokes", "show", "shown-task"), 0),
    "revokes-show-unknown": (("revokes", "show", "typo-task"), 4),
    "revokes-rules": (("revokes", "rules"), 0),
    "revokes-undo": (("revokes", "undo", "undone", *WHO), 0),
    "revokes-undo-unknown": (("revokes", "undo", "typo-task", *WHO), 4),
    "revokes-prune": (("revokes", "prune", "--older-than", "30d", *WHO), 0),
    "audit-list": (("audit", "list", "--task", "shown-task"), 0),
    "audit-verify": (("audit", "verify"), 0),
    "store-check": (("store", "check"), 0),
    "store-repair": (("store", "repair"), 0),
    "store-export": (("store", "export"), 0),
    "keys-generate": (("keys", "generate", "--id", "ops"), 0),
    "keys-check": (("keys", "check"), 0),
    "keys-endorse": (("keys", "endorse", "--task", "shown-task"), 5),
    "top": (("top", "--once"), 0),
    "metrics": (("metrics",), 0),
}  # fmt: skip
#: What is run before and after a case, so that each finds and leaves the fleet as it was.
BEFORE: dict[str, tuple[str, ...]] = {
    "resume": PAUSE,
    "queue-resume": PAUSE,
    "directives-list": PAUSE,
    "directives-clear": PAUSE,
    "queue-purge": ("task", "send", "shop.add", "--queue", "purged"),
    "revokes-undo": ("worker", "revoke", "-t", "undone", "--requester", "ops@desk"),
}
AFTER = dict.fromkeys(
    ("pause", "log-level", "scale", "autoscale", "rate-limit", "queue-pause", "directives-list"), UNDO_ALL
)
#: Commands that have no case here, and the test that holds what they print.
ELSEWHERE = {"worker start": "tests/cli/test_start.py", "demo": "tests/cli/test_demo.py"}
#: Commands that print the same however they are asked: a stream of JSON, a format of its own, a view.
ONE_FORM = {"store-export", "metrics", "top"}
FORMS = ("text", "json", "columns")
WIDTHS = (80, 120, 200)


def test_each_command_has_a_golden_file() -> None:
    """A command that is new fails here until it has a case above, or its output is held elsewhere."""
    covered = {" ".join(arguments[: len(name.split())]) for arguments, _ in CASES.values() for name in COMMANDS}
    assert sorted(set(COMMANDS) - covered - set(ELSEWHERE)) == []


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield " ".join((*path, name))


COMMANDS = tuple(_commands(cli))


FILES = [(name, form) for name in CASES for form in (FORMS if name not in ONE_FORM else ("text",))]


@pytest.mark.parametrize(("name", "form"), FILES, ids=lambda value: value)
def test_what_a_command_prints_is_what_was_agreed(
    fleet: Program, keys: dict[str, str], here: Here, name: str, form: str
) -> None:
    arguments, code = CASES[name]
    gate = Gate(fleet.folder / f"{name}-{form}")
    if "running-task" in arguments:
        running = fleet.send("shop.render", gate=gate.path, deaf=True)
        gate.wait_reached()
        arguments = tuple(running if argument == "running-task" else argument for argument in arguments)
    places = {"{health}": str(fleet.folder / "alpha.health")}
    given = [argument.format(port=free_port()) if "{port}" in argument else argument for argument in arguments]
    given = [places.get(argument, argument) for argument in given]
    program = here.on(fleet, keys if arguments[0] == "keys" and name != "keys-check-refused" else {})
    written = []
    for columns in WIDTHS if form == "columns" else (None,):
        if (before := BEFORE.get(name)) is not None:
            program.ok(*before)
        done = program.run(*given, *(["--json"] if form == "json" else []), columns=columns)
        if (after := AFTER.get(name)) is not None:
            program.ok(*after)
        assert done.code == code, done
        written.append(done)
    gate.open()
    text = _columns(written) if form == "columns" else (_json if form == "json" else _text)(_bounded(name, written[0]))
    path = GOLDEN / f"{name}.{form}"
    if WRITES:
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} differs; is that meant?\n{written[0]}"


@pytest.fixture(scope="module")
def keys(fleet: Program) -> dict[str, str]:
    """Variables of a fleet with a key."""
    lines = fleet.ok("keys", "generate", "--id", "ops").out.splitlines()
    return dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))


class Here:
    """Runs ``stem`` in this process, on a terminal of so many columns or into a pipe."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._patch, self._captured = monkeypatch, capsys

    def on(self, program: Program, more: dict[str, str]) -> Here:
        for name in [name for name in os.environ if name.startswith("STEM_")]:
            self._patch.delenv(name)
        for name, value in {**program.variables, **more}.items():
            self._patch.setenv(name, value)
        return self

    def run(self, *arguments: str, columns: int | None = None) -> Done:
        self._captured.readouterr()
        with self._patch.context() as patch:
            patch.setattr(render, "wide", False)
            if columns is not None:
                patch.setattr(render, "terminal_columns", lambda: columns)
                patch.setattr(render, "shown", lambda value: _usual(_SHOWN(value)))
            code = run(arguments)
        out, err = self._captured.readouterr()
        return Done(code, out, err)

    def ok(self, *arguments: str) -> None:
        done = self.run(*arguments)
        assert done.code == 0, done


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(monkeypatch, capsys)


_SHOWN = render.shown
#: What stands for each kind on a terminal: as long as such values usually are.
USUAL = {
    "<time>": "2026-01-31T12:00:00.000000Z", "<id>": "5b3f6f0e-8f1d-4c3a-9a51-0d2f8a6f1c11", "<span>": "1m01s",
    "<size>": "48.7 MB", "<host>": "web-1.example", "<port>": "6379", "<folder>": "var/lib/stem", "<n>": "7",
    "<version>": "1795955748913788",
    "<text>": "5b3f6f0e8f1d4c3a9a510d2f8a6f1c11", "<pid>": "4711", "<print>": "3d168fb69ba0",
}  # fmt: skip


def _usual(cell: str) -> str:
    """The cell of a table with values of a usual length in place of this run's."""
    if cell == "alpha":
        return "shop-web-1-example-4711-0c3f"
    if cell.isdecimal() and len(cell) < 16:
        return "4711" if len(cell) > 3 else "7"
    if re.fullmatch(r"\d+\.\d+", cell):
        return "0.42"
    for pattern, kind in VARIES:
        cell = pattern.sub(kind, cell)
    return re.sub("|".join(USUAL), lambda found: USUAL[found[0]], cell)


def _columns(runs: list[Done]) -> str:
    """What was printed on each terminal; those that show the same stand together."""
    texts: dict[str, list[int]] = {}
    for columns, done in zip(WIDTHS, runs, strict=True):
        lines = [_usual(line).rstrip() for line in done.out.splitlines()]
        texts.setdefault("\n".join(lines), []).append(columns)
    return "\n".join(f"-- {', '.join(map(str, columns))} columns\n{text}" for text, columns in texts.items()) + "\n"


def _bounded(name: str, done: Done) -> Done:
    """Without what grows with each case that ran before."""
    if name == "metrics":
        kept = [line for line in done.out.splitlines() if line.startswith("#")]
        return Done(done.code, "\n".join(kept), done.err)
    if name == "top":
        kept = [line for line in done.out.splitlines() if line.isupper() or line.startswith("namespace")]
        return Done(done.code, "\n".join(kept), done.err)
    if name == "store-export":
        return Done(done.code, "\n".join(sorted(json.loads(done.out.splitlines()[0]))), done.err)
    return done


def _text(done: Done) -> str:
    """Both streams; columns are as wide as what varies in them, so that each gap is one of two blanks."""
    lines = []
    for stream, text in (("out", done.out), ("err", done.err)):
        for line in text.splitlines():
            lines.append(f"{stream}: {_masked(line)}")
    return f"exit {done.code}\n" + "".join(f"{line}\n" for line in lines)


def _masked(line: str) -> str:
    for pattern, kind in VARIES:
        line = pattern.sub(kind, line)
    line = re.sub(r" {2,}", "  ", line.rstrip())
    return line if line.isupper() else re.sub(r"(?<=  )-?\d+(\.\d+)?(?=  |$)", "<n>", line)


def _json(done: Done) -> str:
    return f"exit {done.code}\n" + json.dumps(_shape(done.json), indent=1, sort_keys=True) + "\n"


def _shape(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        # What counts the worker's endings, doors and threads by name differs with what a platform has.
        if name in _OPEN:
            return {"<name>": _shape(next(iter(value.values()), None))} if value else {}
        return {key: _shape(one, key) for key, one in value.items()}
    if isinstance(value, list):
        seen: list[Any] = []
        for one in (_shape(one, name) for one in value):
            if one not in seen:
                seen.append(one)
        return seen
    if name in WORDS and isinstance(value, (str, bool)):
        return _masked(value) if isinstance(value, str) else value
    return f"<{type(value).__name__}>" if value is not None else None


_OPEN: frozenset[str] = frozenset({"totals", "queues", "dropped", "progress_data", "limits"})


def test_every_golden_file_belongs_to_a_case() -> None:
    made = sorted(path.name for path in GOLDEN.iterdir())
    assert made == sorted(f"{name}.{form}" for name, form in FILES)
