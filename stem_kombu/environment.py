"""This process's environment as a whole, for the programs that it starts. What single variables mean, :mod:`stem_kombu.settings`
says."""

from __future__ import annotations

import os


def environment() -> dict[str, str]:
    """A copy of it."""
    return dict(os.environ)


def put_into_environment(name: str, value: str) -> None:
    """Have each program that this process starts from now on find that variable."""
    os.environ[name] = value


def plain_environment() -> dict[str, str]:
    """The environment for a child program without any of our variables: nothing of the user's settings leaks into it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STEM_")}
