"""The benchmarks run by hand, so a row that can't even be loaded would be found when all of them are to be measured."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.__main__ import ROWS
from benchmarks.figures import Findings
from benchmarks.report import goals
from benchmarks.rows import signing


@pytest.mark.parametrize("row", ROWS)
def test_each_row_of_the_benchmarks_can_be_loaded(row: str) -> None:
    assert callable(import_module(f"benchmarks.rows.{row}").measure)


def test_what_the_row_of_signing_finds_can_stand_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "CALLS", 1)
    monkeypatch.setattr(signing, "BROKERS", ())
    found = Findings("signing")
    signing.measure(SimpleNamespace(rounds=1), found)  # type: ignore[arg-type]
    assert "hmac-sha256: one command signed and verified" in goals([json.loads(found.write(tmp_path).read_text())])


def test_celerys_workers_load_nothing_of_stem_whose_memory_would_count_as_celerys() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, benchmarks.celery_tasks; print(*sys.modules)"],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert [name for name in done.stdout.split() if name.startswith("stem_kombu")] == []
