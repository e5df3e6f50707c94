"""Programs of their own: what a test would do to its own process, they do to theirs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def run_program(source: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the text as a script that may import the tests' modules; its streams are the result's, whatever its status.

    Left out is what a pool says that has ended processes of a killed worker: it may have been another test's, run beside this.
    """
    script = folder / "program.py"
    script.write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        check=False,
    )
    told = done.stderr.splitlines(keepends=True)
    done.stderr = "".join(line for line in told if "a killed worker on this host had left running" not in line)
    return done
