"""Every promise of docs/guarantees.md has a test that names it: ``test_g7_...`` for G7."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PROMISES = re.findall(r"^G(\d+) ", (TESTS.parent / "docs" / "guarantees.md").read_text(), re.MULTILINE)
#: Contract suites are shipped, so that the tests of a promise about stores are in the package.
SUITES = [*TESTS.rglob("test_*.py"), *(TESTS.parent / "stem_kombu" / "testing").glob("*.py")]


def test_there_are_twenty_promises() -> None:
    assert [str(number) for number in range(1, 21)] == PROMISES[:20]


@pytest.mark.parametrize("number", PROMISES)
def test_a_promise_is_named_by_a_test(number: str) -> None:
    named = re.compile(rf"^\s*(?:async )?def test_(?:\w+_)?g{number}_", re.MULTILINE)
    assert [path.name for path in SUITES if named.search(path.read_text())], f"no test is called test_g{number}_..."
