"""The application that ``-A`` names: an attribute of a module, or a function of it that makes one."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType

from stem_kombu.app import Stem
from stem_kombu.errors import ConfigurationError, StemError
from stem_kombu.locating import CALL, located
from stem_kombu.spelling import nearest


def load_app(target: str) -> Stem:
    """The application at ``module:attribute``, with the current folder importable; a function there is called without
    arguments and returns it, whether ``()`` follows its name or not.

    Raises :class:`ConfigurationError` that tells whether the module, the attribute, its type or the call is the problem.
    """
    module_name, separator, attribute = target.partition(":")
    if not separator or not module_name or not attribute.removesuffix(CALL):
        raise ConfigurationError(
            f"application {target!r} is not MODULE:ATTR", hint="write shop.tasks:app, or shop.tasks:make_app()"
        )
    module, plain = _imported(module_name, target), attribute.removesuffix(CALL)
    try:
        found = located(module, module_name, plain)
    except AttributeError:
        raise ConfigurationError(
            f"application {target!r}: module {module_name!r} has no attribute {plain!r}", hint=_near(module, plain)
        ) from None
    if inspect.isroutine(found) or attribute.endswith(CALL):
        found = _made(target, module, module_name, f"{plain}{CALL}")
    elif not isinstance(found, Stem):
        raise ConfigurationError(
            f"application {target!r} is a {type(found).__name__}, not a stem_kombu.Stem", hint=_near(module, plain)
        )
    return found


def _made(target: str, module: ModuleType, name: str, attribute: str) -> Stem:
    try:
        found = located(module, name, attribute)
    except StemError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"application {target!r}: calling {attribute} failed: {type(error).__name__}: {error}",
            hint="it is called without arguments; stem --debug worker start … shows where it failed",
        ) from error
    if not isinstance(found, Stem):
        raise ConfigurationError(
            f"application {target!r}: {attribute} returned a {type(found).__name__}, not a stem_kombu.Stem"
        )
    found.made_by = f"{name}:{attribute}"
    return found


def _imported(name: str, target: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except StemError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"application {target!r}: there is no module {error.name!r}",
                hint=f"looked in {folder} and on PYTHONPATH",
            ) from None
        raise ConfigurationError(
            f"application {target!r}: importing {name!r} failed: {type(error).__name__}: {error}",
            hint="stem --debug worker start … shows where",
        ) from error


def _near(module: ModuleType, attribute: str) -> str | None:
    """What a mistaken name may have meant: an application of the module first."""
    names: dict[str, object] = vars(module)
    applications = [name for name, value in names.items() if isinstance(value, Stem)]
    near = applications[0] if applications else nearest(attribute, names)
    return f"did you mean {module.__name__}:{near}?" if near and near != attribute else None
