"""The benchmarks run by hand, so a row that can't even be loaded would be found when all of them are to be measured."""

from __future__ import annotations

from importlib import import_module

import pytest

from benchmarks.__main__ import ROWS


@pytest.mark.parametrize("row", ROWS)
def test_each_row_of_the_benchmarks_can_be_loaded(row: str) -> None:
    assert callable(import_module(f"benchmarks.rows.{row}").measure)
