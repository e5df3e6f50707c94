"""The table of slow variants names tests that are there: one that moved would come back into ``make test`` unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slow_variants import SLOW_VARIANTS


@pytest.mark.parametrize("test", SLOW_VARIANTS)
def test_each_slow_variant_is_one_of_a_test_that_is_there(test: str) -> None:
    file, _, name = test.partition("::")
    assert f"def {name}(" in (Path(__file__).parent / file).read_text()
