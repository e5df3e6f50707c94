"""``stem worker log-level``: worker and children, for a while."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from tests.cli.program import Program, WorkerProcess
from tests.waiting import eventually

APPLICATION = """
import logging
from stem_kombu import Stem

app = Stem("chat")


def say(ctx, word):
    logging.getLogger("chat.voice").debug("said %s", word)
    logging.getLogger("other").debug("also %s", word)
    return word


app.task("chat.isolate", isolate=True)(say)
app.task("chat.inline")(say)
"""


@pytest.fixture
def worker_of(tmp_path: Path) -> Callable[[Program], WorkerProcess]:
    (tmp_path / "chat.py").write_text(APPLICATION)

    def started(program: Program) -> WorkerProcess:
        return program.start_worker("-A", "chat:app", "--name", "alpha", "-c", "1", env={"PYTHONPATH": str(tmp_path)})

    return started


def said(program: Program, word: str) -> None:
    for kind in ("isolate", "inline"):
        assert program.ended(program.send(f"chat.{kind}", word=f"{word}-{kind}"))["state"] == "succeeded"


@pytest.mark.parametrize("kind", ["embedded", "redis", "amqp"])
def test_worker_and_children_log_from_the_level_on_that_was_asked_for(
    kind: str, program_on: Callable[[str], Program], worker_of: Callable[[Program], WorkerProcess]
) -> None:
    program = program_on(kind)
    worker = worker_of(program)
    said(program, "before")
    document = program.ok("worker", "log-level", "debug", "--logger", "chat", "--reason", "INC-42", "--json").json
    (stored,) = document["stored"]
    lasting = datetime.fromisoformat(stored["expires_at"][:-1]) - datetime.fromisoformat(stored["issued_at"][:-1])
    assert abs(lasting.total_seconds() - 3600) < 5  # unless told otherwise
    setting = document["replies"][0]["payload"]["settings"]["log-level"]["chat"]
    assert (setting["value"], setting["source"], setting["reason"]) == ("debug", "directive", "INC-42")
    said(program, "during")
    for mode in ("isolate", "inline"):
        eventually(lambda mode=mode: f"said during-{mode}" in worker.err, 60)  # type: ignore[misc]
    program.ok("worker", "log-level", "default", "--logger", "chat")
    said(program, "after")
    assert "said before" not in worker.err
    assert "said after" not in worker.err
    assert "also" not in worker.err
    assert program.run("worker", "log-level", "default", "--logger", "chat").code == 4


def test_g23_a_level_ends_by_itself_and_a_child_that_starts_later_obeys(
    embedded: Program, worker_of: Callable[[Program], WorkerProcess]
) -> None:
    embedded.ok("worker", "log-level", "debug", "--for", "1h")
    worker = worker_of(embedded)
    said(embedded, "early")
    eventually(lambda: "said early-isolate" in worker.err and "also early-inline" in worker.err, 60)
    embedded.ok("worker", "log-level", "debug", "--for", "1s")
    eventually(lambda: "log levels: as the worker was started" in worker.err, 60)
    said(embedded, "late")
    assert "said late" not in worker.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("loud",), 2, "'loud' is not one of"),
        (("debug", "--for", "-1s"), 2, "'-1s' is not a duration"),
        (("debug", "--logger", " "), 2, "--logger is blank"),
        (("default",), 4, "no directive about log levels is in force there; nothing was stored"),
    ],
)
def test_wrong_input_names_what_is_wrong(
    embedded: Program, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = embedded.run("worker", "log-level", *arguments)
    assert done.code == code, done
    assert message in done.err
    assert embedded.ok("directives", "list", "--json").json["directives"] == []
