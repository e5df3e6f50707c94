"""Settings of an application from a mapping or an object; applications that a function makes."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from stem_kombu import ControlClient, Settings, Stem, Worker, keywords
from stem_kombu.errors import ConfigurationError
from stem_kombu_cli.application import load_app


def module(**attributes: Any) -> ModuleType:
    made = ModuleType("settings")
    vars(made).update(attributes)
    return made


@pytest.mark.parametrize(
    "settings",
    [
        {"broker": "memory://mapped", "namespace": "shop"},
        module(STEM_BROKER="memory://mapped", STEM_NAMESPACE="shop", DEBUG=True, broker="not asked"),
        SimpleNamespace(STEM_BROKER="memory://mapped", STEM_NAMESPACE="shop"),
        type("Config", (), {"STEM_BROKER": "memory://mapped", "STEM_NAMESPACE": "shop"}),
    ],
    ids=["mapping", "module", "object", "class"],
)
def test_settings_come_from_a_mapping_or_from_an_object_s_attributes(settings: Any) -> None:
    found = Stem("shop", settings=settings).settings
    assert (found.broker.value, found.namespace) == ("memory://mapped", "shop")
    assert Stem("shop", settings=settings, namespace="mine").settings.namespace == "mine"


@pytest.mark.parametrize(
    ("settings", "said", "hint"),
    [
        ({"brokr": "x"}, r"knows no setting 'brokr'", "did you mean 'broker'?"),
        ({1: "x"}, r"knows no setting 1", None),
        (module(STEM_BROKER_URL="x"), r"knows no setting 'STEM_BROKER_URL'", "did you mean STEM_BROKER?"),
        (module(STEM_RESULT_BACKEND_URL="x"), r"STEM_RESULT_BACKEND_URL", "did you mean STEM_BACKEND?"),
        ("shop.settings", r"settings=…\) is 'shop.settings' \(str\)", None),
    ],
)
def test_a_setting_that_is_none_is_refused_where_it_is_given(settings: Any, said: str, hint: str | None) -> None:
    with pytest.raises(ConfigurationError, match=said) as told:
        Stem("shop", settings=settings)
    assert told.value.hint
    assert hint is None or told.value.hint == hint


def test_resolved_settings_are_taken_as_they_are_and_mix_with_nothing() -> None:
    resolved = Settings.from_env({}, broker="memory://here")
    assert Stem("shop", settings=resolved).settings is resolved
    with pytest.raises(ConfigurationError, match="was given settings and also namespace"):
        Stem("shop", settings=resolved, namespace="shop")


@pytest.mark.parametrize("wrong", ["shop:app", None, 5])
def test_what_is_no_application_is_told_to_its_giver(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"a worker runs a stem_kombu\.Stem, not"):
        Worker(wrong)
    with pytest.raises(ConfigurationError, match="a control client needs an application or Settings, not"):
        ControlClient(wrong)


FACTORIES = """
    from stem_kombu import Stem
    made = []

    def make_app():
        app = Stem("made", broker="memory://", backend="memory://", revoke_store="memory://")
        app.task("made.double", isolate=True)(double)
        made.append(app)
        return app

    def double(n: int) -> int:
        return 2 * n

    app = Stem("held")
    task = app.task("held.double")(double)
    class places:
        make = staticmethod(make_app)
    def of_arguments(name): ...
    def of_nothing(): ...
    def fails(): raise KeyError("SECRET_KEY")
    def misses(): return places.absent
"""


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of its own for each test, found in the current folder."""
    name = f"factories_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(FACTORIES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


@pytest.mark.parametrize("attribute", ["make_app", "make_app()", "places.make"])
def test_a_function_makes_the_application_once(name: str, attribute: str) -> None:
    app = load_app(f"{name}:{attribute}")
    assert app.target == f"{name}:{attribute.removesuffix('()')}()"
    assert load_app(f"{name}:{attribute}") is app
    assert sys.modules[name].made == [app]


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("of_arguments", "calling of_arguments() failed: TypeError"),
        ("of_nothing", "of_nothing() returned a NoneType, not a stem_kombu.Stem"),
        ("fails", "calling fails() failed: KeyError: 'SECRET_KEY'"),
        ("misses()", "calling misses() failed: AttributeError"),
        ("task", "is a TaskHandle, not a stem_kombu.Stem"),
        ("make_ap", "has no attribute 'make_ap'"),
        ("()", "is not MODULE:ATTR"),
    ],
)
def test_a_function_that_makes_none_says_what_it_did(name: str, attribute: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        load_app(f"{name}:{attribute}")
    assert said in str(told.value)
    assert told.value.hint or "returned" in said


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_children_find_what_a_function_has_made(name: str, tmp_path: Path, start_method: str) -> None:
    program = f"""
        from stem_kombu import Worker
        from stem_kombu_cli.application import load_app
        if __name__ == "__main__":
            app = load_app("{name}:make_app")
            with Worker(app, concurrency=1, start_method="{start_method}"):
                print(app.send_task("made.double", (21,)).get(timeout=60))
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    ran = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ran.stdout == "42\n", ran.stderr


def test_the_options_that_type_checkers_know_are_those_that_are_taken() -> None:
    taken = inspect.signature(Settings.from_env).parameters.keys()
    assert keywords.SettingsKeywords.__annotations__.keys() == taken - {"environ", "broker_option", "host", "flags"}
    assert keywords.TaskKeywords.__annotations__.keys() == set(keywords.TASK_OPTIONS)
    assert keywords.SendOptions.__annotations__.keys() == set(keywords.SEND_OPTIONS)
    assert keywords.ManyOptions.__annotations__.keys() == {*keywords.SEND_OPTIONS, "task_ids"} - {"task_id"}
