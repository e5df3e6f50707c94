"""docs/architecture.md names files and places in them that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
#: A row of the ten changes: the change, its file, and what to look for there.
CHANGE = re.compile(r"^\| ([^|]+) \| `([\w/]+\.py)` \| `([^`]+)` \|$", re.MULTILINE)


def found(path: str) -> Path | None:
    """The file of that name: below the library, or below the root."""
    return next((base / path for base in (ROOT / "stem_kombu", ROOT) if (base / path).is_file()), None)


def test_each_file_that_is_named_exists() -> None:
    named = set(re.findall(r"(?<![\w/.-])[\w/]+/\w+\.py\b", PAGE))
    assert len(named) > 60
    assert [path for path in sorted(named) if found(path) is None] == []


def test_each_room_that_is_named_exists() -> None:
    rooms = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*)/`", PAGE))
    assert {"transports/store", "worker", "control/server"} <= rooms
    assert [
        room for room in sorted(rooms) if not any((base / room).is_dir() for base in (ROOT / "stem_kombu", ROOT))
    ] == []


def test_there_are_ten_changes() -> None:
    assert len(CHANGE.findall(PAGE)) == 10


@pytest.mark.parametrize(("change", "path", "place"), CHANGE.findall(PAGE), ids=lambda text: text[:40])
def test_a_change_begins_in_the_file_that_is_named(change: str, path: str, place: str) -> None:
    file = found(path)
    assert file is not None, change
    assert re.search(rf"{re.escape(place)}\b", file.read_text(encoding="utf-8")), f"{path} has no {place}: {change}"
