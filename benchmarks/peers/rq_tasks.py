"""RQ's tasks are plain functions."""

from __future__ import annotations

from benchmarks.notes import note


def no_op(payload: str = "") -> None:
    """Nothing."""


def mark(path: str) -> None:
    note(path, "marked")
