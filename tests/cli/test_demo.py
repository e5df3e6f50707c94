"""``stem demo``: the whole story, told by the real program."""

from __future__ import annotations

from pathlib import Path

from tests.cli.program import Program


def test_the_demo_tells_the_whole_story_and_leaves_a_picture(stem: Program, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    done = stem.ok("demo", "--output", str(picture))
    for told in ("$ stem worker ping", "$ stem worker inspect", "$ stem worker stats", "--terminate", "cancelled"):
        assert told in done.out, told
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")
    assert len(data) > 5_000
