"""What a handler takes: whether the task's context comes first, and which arguments it can be called with.

Decided once, where the task is defined, so that a mistake is told there and not by a worker.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from functools import lru_cache

from stem_kombu.errors import ConfigurationError

Parameter = inspect.Parameter
#: Names by which a first parameter asks for the context, whatever its annotation.
NAMES = ("ctx", "context")
#: First parameters of methods, and of Celery's tasks with ``bind=True``.
_OF_METHODS = ("self", "cls")
_FIRST = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
_WRITTEN = re.compile(r"(?:^|[.\[|\s])TaskContext(?:$|[\]|\s])")


def takes_context(name: str, handler: Callable[..., object], wanted: bool | None) -> bool:
    """Whether the handler of task ``name`` is called with the context first.

    ``wanted`` decides where it is given. Else a first parameter that is annotated ``TaskContext``, or is named ``ctx`` or
    ``context``, gets it; another one with an annotation does not, nor does a handler without parameters. Raises
    :class:`ConfigurationError` for a first parameter that could be either, for a context in another place, and for a
    generator function, whose body no call would run.
    """
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise ConfigurationError(
            f"the handler of task {name!r} is a generator function, whose body a call does not run",
            hint="return a list, or use a plain function or a coroutine",
        )
    signature = signature_of(handler)
    if signature is None:  # a builtin that does not tell
        return _ambiguous(name, "a handler without a signature", wanted)
    parameters = list(signature.parameters.values())
    first = parameters[0] if parameters and parameters[0].kind in _FIRST else None
    hints = _hints(handler)
    if wanted is True and first is None:
        raise ConfigurationError(
            f"the handler of task {name!r} takes no context",
            hint="give it a first parameter, or leave context=True out",
        )
    for other in parameters[1:] if first is not None else parameters:
        asks = _is_context(other, hints) or (other.name in NAMES and other.annotation is Parameter.empty)
        if asks and wanted is None:
            raise ConfigurationError(
                f"parameter {other.name!r} of the handler of task {name!r} is not the first one",
                hint="put the context first: def handler(ctx, ...); or say context=False, and it is an argument",
            )
    if wanted is not None or first is None:
        return bool(wanted)
    if first.name in NAMES or _is_context(first, hints):
        return True
    if first.annotation is not Parameter.empty:
        return False
    hint = "a task is no method; for the task's context call it ctx" if first.name in _OF_METHODS else None
    return _ambiguous(name, f"its first parameter {first.name!r}", wanted, hint)


def _ambiguous(name: str, what: str, wanted: bool | None, hint: str | None = None) -> bool:
    if wanted is not None:
        return wanted
    raise ConfigurationError(
        f"task {name!r}: {what} may be the task's context or its first argument",
        hint=hint or "annotate it (ctx: TaskContext, or its own type), or say context=True or context=False",
    )


def misfit(handler: Callable[..., object], with_context: bool, positional: int, keywords: frozenset[str]) -> str | None:
    """Why the handler can't be called with so many positional arguments and these keywords, ``None`` where it can."""
    return _misfit(handler, positional + with_context, keywords)


@lru_cache(maxsize=4096)
def _misfit(handler: Callable[..., object], positional: int, keywords: frozenset[str]) -> str | None:
    # To bind arguments takes longer than a short task, and depends on nothing else than their number and names.
    signature = signature_of(handler)
    if signature is None:
        return None  # a builtin: calling it will tell
    try:
        signature.bind(*[None] * positional, **dict.fromkeys(sorted(keywords)))
    except TypeError as error:
        return str(error)
    return None


def takes_first(function: Callable[..., object]) -> bool:
    """Whether the function takes a positional argument; a builtin that does not tell may."""
    signature = signature_of(function)
    return signature is None or any(one.kind in _FIRST for one in signature.parameters.values())


@lru_cache(maxsize=1024)
def signature_of(handler: Callable[..., object]) -> inspect.Signature | None:
    """The handler's signature, ``None`` for a builtin that does not tell."""
    try:
        return inspect.signature(handler)
    except (TypeError, ValueError):
        return None


def _hints(handler: Callable[..., object]) -> dict[str, object]:
    """Annotations as objects; none where a name in them can't be resolved here (it is imported for type checkers only)."""
    try:
        return typing.get_type_hints(inspect.unwrap(handler))
    except Exception:  # noqa: BLE001 - annotations are the author's expressions, and may raise anything
        return {}


def _is_context(parameter: Parameter, hints: dict[str, object]) -> bool:
    annotation = hints.get(parameter.name, parameter.annotation)
    if isinstance(annotation, str):
        return _WRITTEN.search(annotation) is not None
    return any(
        isinstance(one, type) and any(base.__name__ == "TaskContext" for base in one.__mro__)
        for one in (annotation, *typing.get_args(annotation))
    )
