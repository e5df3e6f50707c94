"""Every snippet of the README and the docs runs, in the order of its page, against real workers.

A Python block whose first line is a comment with a path becomes that file; the bash blocks of a page run in one shell
in a folder with those files, on an embedded broker of their own. A line that starts a worker in the background is
followed by a wait until that worker answers.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "adr").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Commands for the reader's own machine, which a test must not carry out; what they name is checked instead.
OUTSIDE = re.compile(r"^(make|pip) ")

PRELUDE = """
set -eu
ready() {
  for _ in $(seq 60); do
    if stem worker ping --worker "$1" --timeout 2s >/dev/null 2>&1; then return 0; fi
  done
  echo "worker $1 did not come up" >&2
  return 1
}
finish() { for pid in $(jobs -p); do kill "$pid" 2>/dev/null || true; done; wait; }
trap finish EXIT
"""


@dataclass(frozen=True)
class Snippet:
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that a Python block is, by the comment in its first line."""
        match = re.match(r"# (\S+\.py)\n", self.text)
        return match[1] if match else None


def snippets(page: Path) -> list[Snippet]:
    return [Snippet(language, text) for language, text in FENCE.findall(page.read_text())]


def script(page: Path) -> str:
    """The page's bash blocks as one script."""
    lines = [PRELUDE]
    for snippet in snippets(page):
        if snippet.language != "bash" or OUTSIDE.match(snippet.text):
            continue
        lines.append(snippet.text)
        lines += [
            f"ready {name}" for name in re.findall(r"stem worker start .*--name (\S+).*&$", snippet.text, re.MULTILINE)
        ]
    return "\n".join(lines)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path


@pytest.fixture
def environment(project: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEM_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **kept,
        "PATH": path,
        "XDG_STATE_HOME": str(project / "state"),
        "PYTHONPATH": str(project),
        "USER": "reader",
    }


def write_files(page: Path, project: Path) -> list[str]:
    modules = []
    for snippet in snippets(page):
        if snippet.language == "python" and snippet.file is not None:
            target = project / snippet.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(snippet.text)
            modules.append(snippet.file.removesuffix(".py").replace("/", "."))
    return modules


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_python_block_is_a_file_and_runs(page: Path, project: Path, environment: dict[str, str]) -> None:
    loose = [snippet.text for snippet in snippets(page) if snippet.language == "python" and snippet.file is None]
    assert not loose, "a Python block needs its path in the first line, so that this test can run it"
    for module in write_files(page, project):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", module],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{module} of {page.name}:\n{done.stdout}{done.stderr}"


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if re.search("stem |pytest", script(page).replace(PRELUDE, ""))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_every_bash_block_runs_in_the_order_of_its_page(page: Path, project: Path, environment: dict[str, str]) -> None:
    write_files(page, project)
    shell = subprocess.Popen(
        ["bash", "-c", script(page)],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        output, _ = shell.communicate()
        pytest.fail(f"{page.name} did not end:\n{output}")
    assert shell.returncode == 0, f"{page.name}:\n{output}"


def test_what_the_reader_runs_outside_names_targets_and_a_package_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for snippet in snippets(page):
            if OUTSIDE.match(snippet.text):
                for target in re.findall(r"^make (\S+)", snippet.text, re.MULTILINE):
                    assert re.search(rf"^{re.escape(target)}\s*:", makefile, re.MULTILINE), target
                for package in re.findall(r"^pip install (?:--\S+ )*'?([a-z-]+)", snippet.text, re.MULTILINE):
                    assert f"name = {package}" in (ROOT / "setup.cfg").read_text()


def test_the_guarantees_page_has_all_twenty() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text()
    found = re.findall(r"^G(\d+) ", page, re.MULTILINE)
    assert found[:20] == [str(number) for number in range(1, 21)]
