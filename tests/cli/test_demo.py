"""``stem demo``: the whole story, told by the real program."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from stem_kombu_cli.demo.app import WIDTH
from stem_kombu_cli.demo.interruption import Interruption
from stem_kombu_cli.demo.story import Story, StoryBroken
from tests.cli.program import STEM, Program


def _to_the_group(demo: subprocess.Popen[str]) -> None:
    """As a terminal sends Ctrl-C."""
    os.killpg(demo.pid, signal.SIGINT)


def _to_the_demo(demo: subprocess.Popen[str]) -> None:
    demo.terminate()


def _processes_with(marker: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            pass  # it is gone, or it is somebody else's
    return found


def test_the_demo_tells_the_whole_story_and_leaves_a_picture(stem: Program, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    done = stem.ok("demo", "--output", str(picture))
    for told in (
        "$ stem worker ping", "$ stem worker inspect", "$ stem worker stats", "--terminate", "cancelled",
        "$ stem queue pause", "$ stem queue resume", "$ stem revokes undo", "--kill-after",
    ):  # fmt: skip
        assert told in done.out, told
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")
    assert len(data) > 5_000


@pytest.mark.parametrize(
    ("line", "interrupt"),
    [("$ stem worker start", _to_the_group), ("── What runs", _to_the_group), ("── Real work", _to_the_demo)],
    ids=["while a worker starts", "while tasks run", "SIGTERM"],
)
def test_an_interrupted_demo_says_so_in_one_line_and_leaves_nothing_behind(
    line: str, interrupt: Callable[[subprocess.Popen[str]], None], tmp_path: Path
) -> None:
    marker = f"STEM_TEST_MARKER={tmp_path}"
    folder = tmp_path / "t"
    folder.mkdir()
    demo = subprocess.Popen(
        [STEM, "demo"],
        env={**os.environ, **dict([marker.split("=")]), "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    assert any(said.startswith(line) for said in demo.stdout)
    interrupt(demo)
    _, err = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert err.strip() == "error: interrupted"
    assert list(folder.iterdir()) == []
    assert _processes_with(marker) == []


def test_a_picture_that_can_not_be_written_is_named_with_the_reason(tmp_path: Path) -> None:
    interruption = Interruption()
    with (
        closing(Story(tmp_path, Path("/dev/full"), {}, print, interruption)) as story,
        interruption.allowed(),
        pytest.raises(StoryBroken, match=r"the picture can't be written to /dev/full: No space left on device"),
    ):
        story._draw(["00" * WIDTH], "title")
