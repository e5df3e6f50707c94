"""The matrix of docs/transports.md is what was measured, and a column can be measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.fleet import Servers
from tests.matrix.page import FOLDER, PAGE, figures_of, keep, measured, rendered
from tests.matrix.places import PLACES
from tests.matrix.scenario import Scenario


def test_the_page_is_what_the_figures_make_of_it() -> None:
    assert PAGE.read_text() == rendered(PAGE.read_text(), figures_of()), "run `python -m tests.matrix --render`"


def test_each_place_that_was_measured_is_one_that_can_be_measured_again() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} <= set(PLACES)
    assert {"sqs", "sqla-sqlite", "sqla-postgres", "filesystem"} <= set(figures_of()), "Stem helps these"


def test_each_cell_that_was_measured_was_reached() -> None:
    missed = {
        (name, cell): text
        for name, one in figures_of().items()
        for cell, text in one.get("cells", {}).items()
        if text.startswith("no:")
    }
    assert missed == {}


def test_figures_are_kept_and_shown_column_by_column(tmp_path: Path) -> None:
    keep(
        "sqs",
        {"about": "moto's server", "kombu": "5.7.0", "ran_at": "2026-11-29", "load": "1", "cells": {"`ping`": "0.4 s"}},
        tmp_path,
    )
    keep("etcd", {"absent": "etcd is not in PATH"}, tmp_path)
    page = rendered("above\n", figures_of(tmp_path))
    assert page == rendered(page, figures_of(tmp_path)), "made again it is the same"
    assert page.startswith("above\n")
    assert "**SQS (`sqs://`)** (moto's server, Kombu 5.7.0, 2026-11-29, load 1)" in page
    assert "| `ping` | 0.4 s |" in page
    assert "- etcd (`etcd://`), loss accepted: etcd is not in PATH" in measured(figures_of(tmp_path))


@pytest.mark.parametrize(("name", "most"), [("sqs", 2.0), ("sqla-sqlite", 1.5), ("sqla-postgres", 1.5)])
def test_commands_through_the_store_were_as_quick_as_is_promised(name: str, most: float) -> None:
    cells = figures_of()[name]["cells"]
    for cell in ("`ping`", "`inspect`", "revoke what runs"):
        told = re.search(r"(\d+\.\d+) s$", cells[cell])
        assert told is not None and float(told[1]) <= most, (cell, cells[cell])


@pytest.mark.slow  # a dead worker's entry stays in the roster for a minute
@pytest.mark.timeout(600)
def test_g15_g18_a_column_is_measured_and_nothing_in_it_is_missed(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    servers = Servers()
    try:
        with PLACES["sqla-sqlite"][1](servers, tmp_path) as place:
            cells = Scenario(place, tmp_path, commands=3, stops=2, kills=4).run()
    finally:
        servers.close()
    assert not [(cell, text) for cell, text in cells.items() if text.startswith("no:")]
    assert cells["left by 3 commands and 2 clean stops"] == cells["left by 4 SIGKILLs"] == "nothing"
    assert cells["revoke what waits"] == "cancelled"
    assert "control store" in cells["start, ready"]
