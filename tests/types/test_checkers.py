"""What developers see in their editors: mypy (strict) and pyright over files that are right and files that are not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: Without Django's, which has no types: a checker knows nothing of its models.
EXAMPLES = [path for path in sorted((ROOT / "examples").glob("*.py")) if path.name != "in_django.py"]
RIGHT = [HERE / "right.py", HERE / "in_kombus_words.py", *EXAMPLES]


def mypy(folder: Path, *files: Path) -> list[tuple[str, int, str]]:
    pytest.importorskip("mypy")
    # As a user has it: errors inside of Stem are not theirs, and Kombu is typed in part only.
    settings = f"[mypy]\nstrict = True\nfollow_imports = silent\ncache_dir = {ROOT / '.mypy_cache' / 'types'}\n"
    (folder / "mypy.ini").write_text(settings + "[mypy-kombu.*]\nfollow_imports = skip\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(folder / "mypy.ini"), *map(str, files)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(r"^(.+?):(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    return [(str((ROOT / name).resolve()), int(line), said) for name, line, said in found]


def pyright(folder: Path, *files: Path) -> list[tuple[str, int, str]]:
    pytest.importorskip("pyright")
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "strict"}
    # What other packages leave unknown is no mistake of the file.
    settings |= {
        f"reportUnknown{what}Type": False for what in ("Member", "Variable", "Argument", "Parameter", "Lambda")
    }
    settings["reportPrivateImportUsage"] = False  # of Kombu, which says nowhere what it exports
    for file in files:
        shutil.copytree(file, folder / file.name) if file.is_dir() else shutil.copy(file, folder)
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)],
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] >= 1, done.stdout
    errors = [one for one in found["generalDiagnostics"] if one["severity"] == "error"]
    return [(one["file"], one["range"]["start"]["line"] + 1, one["message"]) for one in errors]


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_what_is_right_is_clean(checker: str, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")  # of an example
    assert (mypy(tmp_path, *RIGHT) if checker == "mypy" else pyright(tmp_path, *RIGHT)) == []


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_each_mistake_is_an_error_on_its_line(checker: str, tmp_path: Path) -> None:
    wrong = HERE / "wrong.py"
    expected = {number for number, line in enumerate(wrong.read_text().splitlines(), 1) if line.endswith("# error")}
    found = mypy(tmp_path, wrong) if checker == "mypy" else pyright(tmp_path, wrong)
    assert {line for _, line, _ in found} == expected, found
    assert {Path(name).name for name, _, _ in found} == {"wrong.py"}
