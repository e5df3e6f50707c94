"""Mistakes of a developer's first hour, beside those of docs/mistakes.md: each is told where it is made, with the next step."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kombu import Queue

from stem_kombu import ControlClient, Stem, Worker, open_revoke_store
from stem_kombu.errors import ConfigurationError, ResultTimeout, TaskNotRegistered
from stem_kombu.testing.environment import TaskEnvironment

MEMORY = {"broker": "memory://", "backend": "memory://", "revoke_store": "memory://"}


class Resizer:
    """What is no handler: a class, with a method."""

    def resize(self, width): ...  # type: ignore[no-untyped-def]


class Bare:
    """Settings without the beginning of their names."""

    BROKER = "redis://localhost"


async def asynchronous(message: object) -> None: ...


def of_nothing() -> None: ...


@dataclass(frozen=True)
class Mistake:
    """What is written, and what is said of it."""

    written: str
    said: str
    hint: str | None = None
    kind: type[Exception] = ConfigurationError


MISTAKES = [
    Mistake("Stem(' ')", "the name ' ' of an application is blank", "leave it out, or give one"),
    Mistake("Stem('shop', include=5)", "include of Stem('shop') is 5 (int), not a list", "give a list or tuple"),
    Mistake("Stem('shop', queues=5).settings", "queues of Stem(…) is 5 (int), not a list", "give a list or tuple"),
    Mistake("Stem('shop', accept_loss='no').settings", "accept_loss= is 'no' (str)", "give True or False"),
    Mistake("Stem('shop', allow_insecure='no').settings", "allow_insecure= is 'no' (str)", "give True or False"),
    Mistake(
        "Stem('shop', broker_options='x').settings",
        "broker_options= is 'x' (str)",
        "give a mapping such as {'visibility_timeout': 60}",
    ),
    Mistake(
        "Stem('shop', tls='yes').settings",
        "tls= is 'yes' (str)",
        "give stem_kombu.settings.TlsSettings(ca_cert=…), or set STEM_TLS_CA_CERT",
    ),
    Mistake(
        "Stem('shop', signing='yes').settings",
        "signing= is 'yes' (str)",
        "give stem_kombu.settings.SigningSettings(keys=…), or set STEM_SIGNING_KEYS",
    ),
    Mistake(
        "Stem('shop', settings={'STEM_BROKER': 'x'})",
        "Stem('shop', settings=…) knows no setting 'STEM_BROKER'",
        "did you mean 'broker'?",
    ),
    Mistake(
        "Stem('shop', settings=Bare)",
        "Stem('shop', settings=…) has an attribute BROKER, and none that begins with STEM_",
        "call it STEM_BROKER",
    ),
    Mistake("app.task('a', isolate='no')(of_nothing)", "isolate of @app.task is 'no' (str)", "give True or False"),
    Mistake("app.task('a', context=1)(of_nothing)", "context of task 'a' is 1 (int)", "give True or False"),
    Mistake(
        "app.task('a\\nb')(of_nothing)",
        "task name 'a\\nb' holds a control character",
        "names are one line of plain text",
    ),
    Mistake(
        "app.task('a' * 600)(of_nothing)",
        f"the name of task '{'a' * 40}'… has 600 characters",
        "at most 512 are accepted",
    ),
    Mistake(
        "app.task('a')(Resizer)",
        "@app.task was applied to <class 'tests.unit.test_mistakes_in_python.Resizer'> (type), which is no function",
        "put it directly above def or async def",
    ),
    Mistake(
        "app.task('a')(Resizer.resize)",
        "task 'a': its first parameter 'self' may be the task's context or its first argument",
        "a task is no method; for the task's context call it ctx",
    ),
    Mistake(
        "app.task('a', bind=True)",
        "task 'a' knows no option 'bind'",
        "leave it out, and call the first parameter ctx: it is the task's context",
    ),
    Mistake(
        "app.task(name='a')",
        "@app.task knows no option 'name'",
        "the name comes first: @app.task('shop.resize')",
    ),
    Mistake(
        "app.task('a', rate_limit='5/m')",
        "task 'a' knows no option 'rate_limit'",
        "limit it on the workers: stem worker rate-limit --name TASK 5/s",
    ),
    Mistake(
        "declare_twice(app)",
        "queue 'media' of task 'b' is declared in two ways: max_priority=3 and max_priority=9",
        "make it once and use that object, or its name",
    ),
    Mistake(
        "resize.apply_async((1,), link=resize)",
        "apply_async of task 'shop.resize' knows no option 'link'",
        "Stem has no canvas: send the next task from the handler",
    ),
    Mistake(
        "resize.apply_async((1,), headers='x')",
        "headers of task 'shop.resize' is 'x' (str)",
        "give a mapping of names to values: headers={'shop': 'berlin'}",
    ),
    Mistake(
        "resize.apply_async((1,), headers={5: 1})",
        "headers of task 'shop.resize' is {5: 1} (dict)",
        "give a mapping of names to values: headers={'shop': 'berlin'}",
    ),
    Mistake(
        "resize.apply_async((1,), task_id=5)",
        "task id 5 (int) is no text",
        "give result.id, or str(…) of an id of yours",
    ),
    Mistake("resize.send_many(5)", "calls of task 'shop.resize' is 5 (int), not a list", "give a list or tuple"),
    Mistake(
        "app.send_many('a', [(1,), (2,)], task_ids='ab')",
        "task_ids of task 'a' is 'ab' (str), not a list",
        "give a list or tuple",
    ),
    Mistake(
        "resize.delay(1, countdown=5)",
        "task 'shop.resize': got an unexpected keyword argument 'countdown'"
        "; as an option: apply_async(args, kwargs, countdown=…)",
        kind=TypeError,
    ),
    Mistake(
        "resize.s(1)",
        "a task of Stem has no 's': Stem has no canvas: send the next task from the handler",
        kind=AttributeError,
    ),
    Mistake(
        "resize.retry()",
        "a task of Stem has no 'retry': raise ctx.retry(countdown=30) in the handler",
        kind=AttributeError,
    ),
    Mistake(
        "app.result(None)",
        "task id None (NoneType) is no text",
        "give result.id, or str(…) of an id of yours",
    ),
    Mistake(
        "app.result('a').get(timeout='5s')",
        "timeout of result a: '5s' (str) is no number of seconds",
        "give seconds as a number, for example 300 or 0.5",
    ),
    Mistake("Worker(app, queues=5)", "queues of a worker is 5 (int), not a list", "give a list or tuple"),
    Mistake("Worker(app, name=5)", "worker id 5 (int) is no text"),
    Mistake(
        "ControlClient(app).ping(workers=5)",
        "workers 5 must be a list of worker ids or globs",
        "write workers=['a']",
    ),
    Mistake(
        "ControlClient(app).ping(timeout='x')",
        "timeout: 'x' (str) is no number of seconds",
        "give seconds as a number, for example 300 or 0.5",
    ),
    Mistake(
        "ControlClient(app).revoke(['a'], expires_in='1h')",
        "expires_in: '1h' (str) is no number of seconds",
        "give seconds as a number, for example 300 or 0.5",
    ),
    Mistake("open_revoke_store(5)", "URL: 5 (int) is no text", "give a URL such as redis://…"),
    Mistake(
        "app.control_command(5)",
        "the name of a control command is text, not 5 (int)",
    ),
    Mistake(
        "app.control_command('reload')(5)",
        "control command 'reload' is no plain function of a worker's view: 5",
        "write def command(view, **args)",
    ),
    Mistake("app.on_worker_start(5)", "a hook is 5 (int), which is no function"),
]


def declare_twice(app: Stem) -> None:
    app.task("a", queue=Queue("media", max_priority=3))(of_nothing)
    app.task("b", queue=Queue("media", max_priority=9))(of_nothing)


@pytest.fixture
def app() -> Iterator[Stem]:
    app = Stem("shop", **MEMORY)  # type: ignore[arg-type]
    yield app
    app.close()


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.written)
def test_a_mistake_is_told_where_it_is_made_with_the_next_step(mistake: Mistake, app: Stem) -> None:
    @app.task("shop.resize")
    def resize(width: int) -> int:
        return width

    names = {
        "Stem": Stem,
        "Worker": Worker,
        "ControlClient": ControlClient,
        "open_revoke_store": open_revoke_store,
        "Bare": Bare,
        "Resizer": Resizer,
        "of_nothing": of_nothing,
        "declare_twice": declare_twice,
        "app": app,
        "resize": resize,
    }
    with pytest.raises(mistake.kind) as told:
        eval(mistake.written, names)  # noqa: S307 - a row of the table above
    assert str(told.value) == mistake.said
    assert getattr(told.value, "hint", None) == mistake.hint


@pytest.mark.parametrize("command", [asynchronous, of_nothing])
def test_a_control_command_is_a_plain_function_of_a_view(command: Any, app: Stem) -> None:
    with pytest.raises(ConfigurationError, match="is no plain function of a worker's view"):
        app.control_command("reload")(command)


def _module(folder: Path, text: str) -> types.ModuleType:
    (folder / "twice_tasks.py").write_text(text)
    import twice_tasks  # type: ignore[import-not-found]

    return twice_tasks  # type: ignore[no-any-return]


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "twice_tasks", raising=False)
    return tmp_path


BEGIN = "from tests.unit.twice_app import app\n"
SEND = '@app.task("shop.send")\ndef send(to: str) -> int:\n    return 1\n'


def test_two_functions_of_one_name_in_one_file_are_no_one_task(importable: Path) -> None:
    """A task that was copied, and whose name was left as it was: the first would be gone in silence."""
    with pytest.raises(ConfigurationError) as told:
        _module(importable, BEGIN + SEND + SEND)
    assert str(told.value) == (
        "task 'shop.send' is defined twice: twice_tasks.send (line 2) and twice_tasks.send (line 5)"
    )
    assert told.value.hint == "give one of them another name"


def test_a_module_that_is_reloaded_after_an_edit_replaces_its_tasks(importable: Path) -> None:
    import importlib

    from tests.unit.twice_app import app

    module = _module(importable, BEGIN + SEND)
    (importable / "twice_tasks.py").write_text(BEGIN + "\n\n" + SEND.replace("return 1", "return 22"))
    importlib.reload(module)
    assert app.registry.get("shop.send").handler("x") == 22


def test_what_is_typed_again_at_a_prompt_replaces_the_task(app: Stem) -> None:
    for line in range(2):
        exec(compile("\n" * line + SEND, "<stdin>", "exec"), {"app": app, "__name__": "__main__"})  # noqa: S102
    assert len(app.registry) == 1


def test_a_name_that_is_nearly_a_task_is_met_with_it(app: Stem) -> None:
    app.task("shop.resize")(of_nothing)
    with pytest.raises(TaskNotRegistered) as told:
        app.registry.get("shop.resiz")
    assert told.value.hint == "did you mean 'shop.resize'?"


def test_a_result_of_a_task_that_no_worker_takes_names_its_queue(app: Stem) -> None:
    app.task("shop.cut", queue="media")(of_nothing)
    with pytest.raises(ResultTimeout) as told:
        app.send_task("shop.cut").get(timeout=0)
    assert str(told.value).endswith("has not ended within 0 s; it is queued")
    assert told.value.hint == "start a worker that consumes queue 'media', or look for one by `stem queue list`"


@pytest.mark.parametrize("fraction", ["half", 2, -1, float("nan")])
def test_progress_that_is_no_fraction_is_told_in_the_handler(fraction: Any, app: Stem) -> None:
    @app.task("shop.render")
    def render(ctx: Any) -> None:
        ctx.progress(fraction)

    ended = TaskEnvironment().run(render)
    assert ended.error is not None
    assert ended.error.type == "ValueError"
    assert ended.error.message.startswith(f"progress {fraction!r} of task ")
    assert ended.error.message.endswith(" is not between 0 and 1")
