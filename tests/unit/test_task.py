"""Tasks as an application defines them: what can't be meant is refused where it is written."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from stem_kombu import Stem, TaskContext
from stem_kombu.errors import ConfigurationError


def of_nothing() -> None: ...


def of_keywords(*, width: int = 1, **more: Any) -> None: ...


@pytest.mark.parametrize("handler", [of_nothing, of_keywords])
def test_a_handler_that_can_not_take_its_context_is_refused_by_name(handler: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"task 'shop\.resize' takes no context") as caught:
        Stem("shop").task("shop.resize")(handler)
    assert "def handler(ctx" in str(caught.value.hint)


def of_context(ctx: TaskContext, /) -> None: ...


def of_anything(*args: Any) -> None: ...


class Resizer:
    def __call__(self, ctx: TaskContext, width: int) -> None: ...


@pytest.mark.parametrize(
    "handler", [of_context, of_anything, Resizer(), functools.partial(Resizer().__call__, width=3), print]
)
def test_any_callable_that_can_take_it_is_a_handler(handler: Callable[..., Any]) -> None:
    app = Stem("shop")
    app.task("shop.resize")(handler)
    assert "shop.resize" in app.registry
