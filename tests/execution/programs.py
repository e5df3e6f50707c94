"""Programs of their own: what a test would do to its own process, they do to theirs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def run_program(source: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the text as a script that may import the tests' modules; its streams are the result's, whatever its status."""
    script = folder / "program.py"
    script.write_text(textwrap.dedent(source))
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        check=False,
    )
