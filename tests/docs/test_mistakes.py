"""The page of the commonest mistakes: each of its rows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stem_kombu import Stem
from stem_kombu.errors import StemError
from stem_kombu_cli.application import load_app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "mistakes.md"
ROWS = [row.strip("| \n").split(" | ") for row in PAGE.read_text().splitlines() if row.startswith("| `")]
#: What a row in prose is in Python.
IN_FULL = {
    '`@app.task("shop.crop")` over `def crop(job, width)`': 'app.task("shop.crop")(crop)',
    '`@app.task("shop.crop")` over a function with `yield`': 'app.task("shop.crop")(generates)',
    '`@app.task("shop.crop", max_retry=3)`': 'app.task("shop.crop", max_retry=3)',
    '`Stem("shop", broker="reddis://localhost")`': 'Stem("shop", broker="reddis://localhost").send_task("shop.resize")',
    "`stem worker start -A shop:ap`": 'load_app("shop:ap")',
}


def crop(job, width): ...  # type: ignore[no-untyped-def]


def generates(width: int) -> Any:
    yield width


def test_there_are_ten() -> None:
    assert len(ROWS) == 10
    assert IN_FULL.keys() <= {written for written, _ in ROWS}


@pytest.mark.parametrize(("written", "said"), ROWS, ids=[written.strip("`") for written, _ in ROWS])
def test_each_mistake_is_told_where_it_is_made(
    written: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    (tmp_path / "shop.py").write_text("from stem_kombu import Stem\napp = Stem('shop')\n")
    memory = {"broker": "memory://", "backend": "memory://", "revoke_store": "memory://"}
    app = Stem("shop", **memory)

    @app.task("shop.resize")
    def resize(width: int) -> int:
        return width

    names = {"Stem": Stem, "app": app, "resize": resize, "crop": crop, "generates": generates, "load_app": load_app}
    sentences = re.findall(r"`([^`]+)`", said.replace("a `TypeError`", ""))
    with pytest.raises((StemError, TypeError)) as told:
        eval(IN_FULL.get(written, written.strip("`")), names)  # noqa: S307 - a row of the page
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    assert str(told.value) == sentences[0]
    assert getattr(told.value, "hint", None) == (sentences[1] if len(sentences) > 1 else None)
    assert isinstance(told.value, TypeError) == ("TypeError" in said)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes of exceptions are of Python 3.11")
def test_a_traceback_shows_the_hint() -> None:
    made = subprocess.run(
        [sys.executable, "-c", "from stem_kombu import Stem; Stem('shop', brokr='x')"], capture_output=True, text=True
    )
    assert made.stderr.rstrip().endswith("knows no setting 'brokr'\nhint: did you mean broker=?")
