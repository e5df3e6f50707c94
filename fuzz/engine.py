"""One target under Atheris, in a process of its own: ``python -m fuzz.engine TARGET WORK SECONDS``.

Goes on after a finding, so that one run tells of all of them: each is kept once for each place where it was raised. A
hang or a leak ends the process, as libFuzzer's own findings. ``--merge`` keeps the inputs that make a difference.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shlex
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import atheris

from fuzz.corpus import LONGEST
from fuzz.mutation import mutated
from fuzz.oracle import Finding
from fuzz.targets import Target, load

#: Seconds for one input, and megabytes of the process, after which libFuzzer speaks of a hang and of a leak.
_HANG, _LARGEST_RSS_MB = 20, 2048


class Harness:
    """Calls the target, and keeps what it finds in ``folder``."""

    def __init__(self, target: Target, folder: Path) -> None:
        self._target = target
        self._folder = folder
        self._seen: set[str] = set()

    def __call__(self, data: bytes) -> None:
        try:
            self._target(data)
        except Exception as error:  # noqa: BLE001 - whatever comes out of a door is what is looked for
            self._keep(data, error)

    def _keep(self, data: bytes, error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        last = frames[-1] if frames else None
        where = next((f for f in reversed(frames) if "stem_kombu" in f.filename), last)
        said = str(error).partition(":")[0].partition("(")[0] if isinstance(error, Finding) else ""
        key = f"{type(error).__name__} {where and (where.filename, where.lineno)} {last and last.lineno} {said}"
        name = hashlib.sha1(key.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()[:12]
        if name in self._seen:
            return
        self._seen.add(name)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{name}.input").write_bytes(data)
        told = "".join(traceback.format_exception(error))
        (self._folder / f"{name}.txt").write_text(f"{data!r}\n\n{told}", encoding="utf-8", errors="backslashreplace")
        print(f"FINDING {name}: {type(error).__name__}: {str(error)[:300]!r}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> None:
    name, work = arguments[0], Path(arguments[1])
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["stem_kombu", "stem_kombu_cli", "kombu", "pickletools"]):
        target = load(name)
    options = [
        f"-max_len={LONGEST}", f"-timeout={_HANG}", f"-rss_limit_mb={_LARGEST_RSS_MB}", "-print_final_stats=1",
        f"-artifact_prefix={work}/artifact-", "-verbosity=0" if "--quiet" in arguments else "-verbosity=1",
    ]  # fmt: skip
    program = sys.argv[0]
    if "--inner" in arguments:  # libFuzzer calls itself to merge: with options of its own
        options, inputs = arguments[arguments.index("--inner") + 1 :], []
    elif "--merge" in arguments:
        inputs = [str(work / "merged"), str(work / "inputs")]
        (work / "merged").mkdir(parents=True, exist_ok=True)
        options.append("-merge=1")
        program = str(_program(name, work))
    else:
        inputs = [str(work / "inputs")]
        options.append(f"-max_total_time={int(float(arguments[2]))}")
        dictionary = work / "words.dict"
        dictionary.write_text("".join(f"{json.dumps(word)}\n" for word in _words(target)), encoding="ascii")
        options.append(f"-dict={dictionary}")
    more: dict[str, Any] = {"custom_mutator": _mutate} if target.json else {}
    atheris.Setup([program, *options, *inputs], Harness(target, work / "findings"), **more)
    atheris.Fuzz()


def _program(name: str, work: Path) -> Path:
    """A program of this target that libFuzzer can call."""
    path = work / "again.sh"
    call = shlex.join([sys.executable, "-m", "fuzz.engine", name, str(work), "0", "--inner"])
    path.write_text(f'#!/bin/sh\nexec {call} "$@"\n', encoding="utf-8")
    path.chmod(0o700)
    return path


def _mutate(data: bytes, largest: int, seed: int) -> bytes:
    rng = random.Random(seed)
    if rng.random() < 0.7:
        changed = mutated(data, largest, rng)
        if changed is not None:
            return changed
    return bytes(atheris.Mutate(data, largest))


def _words(target: Target) -> list[str]:
    """Words of the seeds, which a mutation may put in; plain ones, since libFuzzer reads escapes of its own."""
    words = {
        word
        for seed in target.seeds
        for word in seed.decode("latin-1").replace('"', " ").split()
        if 2 <= len(word) <= 40
    }
    return sorted(word for word in words if word.isascii() and word.isprintable() and "\\" not in word)[:200]


if __name__ == "__main__":
    main(sys.argv[1:])
