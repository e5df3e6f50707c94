"""SECURITY.md names a test for each of its claims, and each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_tests_that_the_security_page_names_are_there() -> None:
    table = (ROOT / "SECURITY.md").read_text().partition("## What is tested")[2]
    rows = re.findall(r"^\| (?!Claim|---)(.+?) \| (.+) \|$", table, re.MULTILINE)
    sources = "\n".join(
        path.read_text() for folder in ("tests", "stem_kombu/testing") for path in (ROOT / folder).rglob("*.py")
    )
    defined = set(re.findall(r"def (test_\w+)\(", sources))

    assert len(rows) >= 15
    for claim, tests in rows:
        named = re.findall(r"`(test_\w+)`", tests)
        assert named, claim
        assert set(named) <= defined, (claim, set(named) - defined)
