"""The corpus of a target: one file of lines, an input each, as JSON text whose characters are its bytes (Latin-1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).with_name("corpus")
#: Bytes of an input, and inputs of a target, that are kept: the repository is no place for all that was ever tried.
LONGEST, MOST = 4096, 250


def path_of(target: str) -> Path:
    return FOLDER / f"{target}.txt"


def read(target: str) -> list[bytes]:
    """The inputs; none where no corpus was kept."""
    path = path_of(target)
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return [str(json.loads(line)).encode("latin-1") for line in lines]


def write(target: str, inputs: Iterable[bytes]) -> int:
    """Keep the shortest inputs, in an order that a rewrite doesn't change; returns how many."""
    kept = sorted({one for one in inputs if len(one) <= LONGEST}, key=lambda one: (len(one), one))[:MOST]
    FOLDER.mkdir(exist_ok=True)
    path_of(target).write_text("".join(json.dumps(one.decode("latin-1")) + "\n" for one in kept), encoding="ascii")
    return len(kept)


def unpack(inputs: Iterable[bytes], folder: Path) -> None:
    """A file an input, as libFuzzer wants them."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in inputs:
        (folder / hashlib.sha1(one, usedforsecurity=False).hexdigest()).write_bytes(one)


def packed(folder: Path) -> list[bytes]:
    """The inputs of a folder."""
    return [path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()]
