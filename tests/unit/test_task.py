"""Tasks as an application defines them: what can't be meant is refused where it is written."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from stem_kombu import Stem, TaskContext
from stem_kombu.errors import ConfigurationError


def of_nothing() -> None: ...


def of_keywords(*, width: int = 1, **more: Any) -> None: ...


def of_the_type(job: TaskContext, width: int) -> None: ...


def of_the_name(ctx, width): ...  # type: ignore[no-untyped-def]


def of_both_names(context: Any, width: int) -> None: ...


def of_an_option(job: TaskContext | None, width: int = 1) -> None: ...


def of_its_own(width: int, height: int = 1) -> None: ...


def unclear(job, width): ...  # type: ignore[no-untyped-def]


def unclear_in_number(*args): ...  # type: ignore[no-untyped-def]


def late(width: int, ctx: TaskContext) -> None: ...


def generates(ctx: TaskContext) -> Iterator[int]:
    yield 1


async def generates_in_the_loop(ctx: TaskContext) -> AsyncIterator[int]:
    yield 1


@functools.wraps(of_the_type)
def wrapped(*args: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("handler", "gets_it"),
    [
        (of_the_type, True),
        (of_the_name, True),
        (of_both_names, True),
        (of_an_option, True),
        (wrapped, True),
        (of_its_own, False),
        (of_nothing, False),
        (of_keywords, False),
    ],
)
def test_a_handler_gets_the_context_if_it_asks_for_it(handler: Callable[..., Any], gets_it: bool) -> None:
    app = Stem("shop")
    app.task("shop.resize")(handler)
    assert app.registry.get("shop.resize").context is gets_it


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (unclear, "its first parameter 'job' may be the task's context or its first argument"),
        (unclear_in_number, "its first parameter 'args' may be"),
        (lambda n: n, "its first parameter 'n' may be"),
        (late, "parameter 'ctx' of the handler of task 'shop.resize' is not the first one"),
        (generates, "is a generator function"),
        (generates_in_the_loop, "is a generator function"),
    ],
)
def test_a_handler_that_could_be_misunderstood_is_refused_where_it_is_defined(
    handler: Callable[..., Any], said: str
) -> None:
    app = Stem("shop")
    with pytest.raises(ConfigurationError, match=re.escape(said)) as told:
        app.task("shop.resize")(handler)
    assert told.value.hint
    assert "shop.resize" not in app.registry


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize("handler", [unclear, unclear_in_number, of_its_own, print])
def test_context_decides_where_annotation_and_name_do_not(handler: Callable[..., Any], context: bool) -> None:
    app = Stem("shop")
    app.task("shop.resize", context=context)(handler)
    assert app.registry.get("shop.resize").context is context


def test_a_handler_without_parameters_can_not_be_given_a_context() -> None:
    with pytest.raises(ConfigurationError, match="takes no context"):
        Stem("shop").task("shop.resize", context=True)(of_nothing)


@pytest.mark.parametrize("name", ["", "  ", "\n"])
def test_a_blank_name_is_refused_and_not_replaced(name: str) -> None:
    with pytest.raises(ConfigurationError, match="of a task is blank"):
        Stem("shop").task(name)(of_its_own)


@pytest.mark.parametrize(("option", "near"), [("isolated", "isolate"), ("max_retry", "max_retries"), ("zzz", None)])
def test_an_unknown_option_is_answered_with_the_nearest_one(option: str, near: str | None) -> None:
    with pytest.raises(ConfigurationError, match=f"knows no option '{option}'") as told:
        Stem("shop").task("shop.resize", **{option: 1})(of_its_own)
    assert str(told.value.hint).startswith(f"did you mean {near}=?" if near else "known are ")


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {}, "missing a required argument: 'width'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"depth": 1}, "got an unexpected keyword argument 'depth'"),
        ((1,), {"width": 1}, "multiple values for argument 'width'"),
    ],
)
def test_arguments_that_do_not_fit_are_a_type_error_where_they_are_given(
    args: tuple[int, ...], kwargs: dict[str, int], said: str
) -> None:
    handle = Stem("shop", broker="memory://unused").task("shop.resize")(of_its_own)
    for send in (lambda: handle.delay(*args, **kwargs), lambda: handle.apply_async(args, kwargs)):
        with pytest.raises(TypeError, match=re.escape(f"task 'shop.resize': {said}")):
            send()


@pytest.mark.parametrize("call", [(), (1, 2, 3), {"depth": 1}, {}])
def test_none_of_many_is_sent_where_one_does_not_fit(call: Any) -> None:
    # The broker that is named does not exist: to send anything would be another error.
    handle = Stem("shop", broker="redis://127.0.0.1:1/0").task("shop.resize")(of_its_own)
    with pytest.raises(TypeError, match=r"^task 'shop\.resize': "):
        handle.send_many([(1,), {"width": 2}, call])


@pytest.mark.parametrize("args", ["abc", b"abc", {"a": 1}, 5, None])
def test_text_is_not_taken_for_a_list_of_arguments(args: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"args of task 'shop\.resize' is"):
        Stem("shop", broker="memory://unused").send_task("shop.resize", args)
    with pytest.raises(ConfigurationError, match=r"kwargs of task 'shop\.resize' is"):
        Stem("shop", broker="memory://unused").send_task("shop.resize", (), 5 if isinstance(args, dict) else args or 5)


def of_context(ctx: TaskContext, /) -> None: ...


class Resizer:
    def __call__(self, ctx: TaskContext, width: int) -> None: ...


@pytest.mark.parametrize(
    "handler", [of_context, Resizer(), Resizer().__call__, functools.partial(Resizer().__call__, width=3)]
)
def test_any_callable_that_asks_for_it_gets_the_context(handler: Callable[..., Any]) -> None:
    app = Stem("shop")
    app.task("shop.resize")(handler)
    assert app.registry.get("shop.resize").context
