"""What each command prints, in text and in JSON, held against files in ``golden/``.

What differs from run to run is written as its kind: ``<time>``, ``<span>``, ``<id>``. In JSON a value is written as its
type, but for words that scripts compare (``schema``, ``state``, ``code`` …). A change that is meant is written by running
this test with ``STEM_TEST_GOLDEN=write``, and read in the diff.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.testing.gates import Gate
from stem_kombu.testing.ports import free_port
from tests.cli.program import Done, Program

GOLDEN = Path(__file__).with_name("golden")
#: Fields of JSON whose values are part of what is promised.
WORDS = {
    "schema", "command", "status", "state", "code", "component", "standing", "complete", "broadcast", "terminate", "mode",
    "worker_state", "name", "worker", "namespace", "consuming",
}  # fmt: skip
#: What differs from run to run, in text, in the order in which it is replaced.
VARIES = [
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<time>"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"sqlite:/{1,3}\S+/(\w+\.db)"), r"sqlite:///<folder>/\1"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:<port>"),
    (re.compile(r"(?<![\w.])\d+(\.\d+)?(ms|us|µs|s|m|h|d)(\d\d[smh])?(?![\w.])"), "<span>"),
    (re.compile(r"(?<![\w.])\d+(\.\d+)? [kMG]?B(?!\w)"), "<size>"),
    (re.compile(r"version \d[\d.]*"), "version <n>"),
    (re.compile(r"^process .*"), "process  <host>, <pid>, <size>, load <n>"),
    (re.compile(r"(?<=[A-Za-z0-9_]@)[\w.-]+"), "<host>"),
]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One worker, ``alpha``, on the embedded broker, with a task that has ended."""
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
        program.start_worker("--name", "alpha", "--concurrency", "1")
        program.ended(program.send("shop.add", "--id", "ended-task", a=1))
        yield program
    finally:
        program.close()


NOWHERE = ("--broker", "redis://127.0.0.1:{port}/0")
#: name: (arguments, exit code). All but the last of each name run in text and in JSON.
CASES: dict[str, tuple[tuple[str, ...], int]] = {
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
    "revoke-runs": (("worker", "revoke", "-t", "running-task", "--terminate", "--timeout", "1s", "--requester", "ops@desk"), 3),
    "revoke-unreachable": (("worker", "revoke", "-t", "any", "--revoke-store", "redis://127.0.0.1:{port}/0"), 74),
    "task-send": (("task", "send", "shop.nothing", "--queue", "unread"), 0),
    "task-show": (("task", "show", "ended-task"), 0),
    "task-show-unknown": (("task", "show", "no-such-task"), 4),
    "health": (("health",), 0),
    "health-unreachable": (("health", *NOWHERE), 74),
    "keys-check-refused": (("keys", "check"), 2),
}  # fmt: skip


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("name", CASES)
def test_what_a_command_prints_is_what_was_agreed(fleet: Program, name: str, form: str) -> None:
    arguments, code = CASES[name]
    gate = Gate(fleet.folder / f"{name}-{form}")
    if "running-task" in arguments:
        running = fleet.send("shop.render", gate=gate.path, deaf=True)
        gate.wait_reached()
        arguments = tuple(running if argument == "running-task" else argument for argument in arguments)
    given = [argument.format(port=free_port()) if "{port}" in argument else argument for argument in arguments]
    done = fleet.run(*given, *(["--json"] if form == "json" else []))
    gate.open()
    assert done.code == code, done
    written = _json(done) if form == "json" else _text(done)
    path = GOLDEN / f"{name}.{form}"
    if os.environ.get("STEM_TEST_GOLDEN") == "write":
        path.write_text(written)
    assert written == path.read_text(), f"{path.name} differs; is that meant?\n{done}"


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
    assert made == sorted(f"{name}.{form}" for name in CASES for form in ("text", "json"))
