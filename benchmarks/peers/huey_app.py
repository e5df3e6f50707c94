"""Huey: on Redis, or in a SQLite file."""

from __future__ import annotations

import os

from huey import RedisHuey, SqliteHuey

from benchmarks.notes import note

_url = os.environ["BENCH_BROKER"]
if _url.startswith("sqlite"):
    huey = SqliteHuey(filename=_url.removeprefix("sqlite://"), results=False)
else:
    huey = RedisHuey(url=_url, results=False)


@huey.task()
def no_op(payload: str = "") -> None:
    """Nothing."""


@huey.task()
def mark(path: str) -> None:
    note(path, "marked")
