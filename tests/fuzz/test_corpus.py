"""What fuzzing has gathered, replayed without a fuzzer: nothing that ever made a difference makes a door fall."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from fuzz import corpus
from fuzz.targets import TARGETS, load


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Doors tell of what they refuse, thousands of times here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", TARGETS)
def test_g17_every_door_withstands_its_corpus(name: str) -> None:
    door = load(name)
    kept = corpus.read(name)
    let_in = sum(door(data) for data in (*door.seeds, *kept))
    assert len(kept) >= 10, "a corpus that small keeps nothing"
    assert let_in >= 1, "a door that refuses everything proves nothing"
    assert let_in < len(door.seeds) + len(kept), "a door that lets everything in proves nothing"


def test_a_corpus_is_small_and_comes_back_as_it_was(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TARGETS:
        assert corpus.path_of(name).stat().st_size < 400_000
    monkeypatch.setattr(corpus, "FOLDER", tmp_path)
    inputs = [b"", b"\x00\xff\n", "ä".encode(), b'"quoted\\"']
    assert corpus.write("door", inputs) == 4
    assert sorted(corpus.read("door")) == sorted(inputs)
