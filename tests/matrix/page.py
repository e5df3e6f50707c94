"""The measured part of docs/transports.md, made of the figures in docs/transports/, and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.matrix.places import PLACES

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, FOLDER = DOCS / "transports.md", DOCS / "transports"
BEGIN, END = "% measured: begin (made by `python -m tests.matrix`, changes here are lost)\n", "% measured: end\n"


def keep(name: str, figures: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Write what one run has measured of one place; what an earlier run left is replaced."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


def figures_of(folder: Path = FOLDER) -> dict[str, Any]:
    """What was measured, by the name of the place, in the order of the page."""
    paths = {name: folder / f"{name}.json" for name in PLACES}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def measured(figures: Mapping[str, Any]) -> str:
    """The part of the page, its markers included."""
    found = {name: one for name, one in figures.items() if "cells" in one}
    lines = []
    for name, one in found.items():
        about = ", ".join(filter(None, (one["about"], f"Kombu {one['kombu']}", one["ran_at"], f"load {one['load']}")))
        lines += [f"**{PLACES[name][0]}** ({about})\n", "| | |", "| --- | --- |"]
        lines += [f"| {cell} | {text.replace('|', '/')} |" for cell, text in one["cells"].items()]
        lines.append("")
    absent = [f"- {PLACES[name][0]}: {one['absent']}" for name, one in figures.items() if "absent" in one]
    if absent:
        lines += ["Not on the machine that measured:\n", *absent, ""]
    if waits := [PLACES[name][0] for name in PLACES if name not in figures]:
        lines += [f"Not measured yet: {', '.join(waits)}.", ""]
    return BEGIN + "\n" + "\n".join(lines) + "\n" + END


def rendered(page: str, figures: Mapping[str, Any]) -> str:
    """The page with its measured part made anew."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + measured(figures) + tail
