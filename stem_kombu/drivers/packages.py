"""The package of a driver, imported when it is first needed, in whatever thread that is."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from stem_kombu.errors import ConfigurationError


def driver_package(package: str, parts: tuple[str, ...], extra: str, *, name: str, masked: str) -> Any:
    """The package with these parts as its attributes. ``extra`` is the extra of this project that installs it, ``name`` the flag
    or variable that the URL came from and ``masked`` the URL without its password.

    Raises :class:`~stem_kombu.errors.ConfigurationError` where it can't be imported. Typed as ``Any`` on purpose: the
    annotations of redis-py differ between the versions that are supported.
    """
    try:
        # The package before its parts: a thread that holds the lock of a part while another thread imports the package (Kombu
        # does) makes Python end one of the two imports with an error.
        found = import_module(package)
        for part in parts:
            module = import_module(f"{package}.{part}")
            # Python sets the attribute when it loads the part. Where the first import of the package was cut short, by such an
            # error or a signal, the second one finds the part loaded and makes a package without it.
            if not hasattr(found, part):
                setattr(found, part, module)
        return found
    except ImportError as error:
        raise ConfigurationError(
            f"{name}: {masked!r} needs the package {package}, which can't be imported: {error}",
            hint=f"install it: pip install 'stem-kombu[{extra}]'",
        ) from error
