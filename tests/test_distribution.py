"""What is built for the package index holds everything, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "stem_kombu", "stem_kombu_cli")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("setuptools", minversion="70.1")  # the first that builds wheels by itself
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:  # a copy, so that what an older build left behind can't come in
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    built = subprocess.run(
        [sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('.')"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_has_every_module_and_both_markers_of_types(wheel: zipfile.ZipFile) -> None:
    packaged = {name for name in wheel.namelist() if not re.match(r"[^/]+\.dist-info/", name)}
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in ("stem_kombu", "stem_kombu_cli")
        for path in (ROOT / package).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert packaged == sources
    assert {"stem_kombu/py.typed", "stem_kombu_cli/py.typed"} <= packaged


def test_the_wheel_names_its_license_its_command_and_its_dependencies(wheel: zipfile.ZipFile) -> None:
    described = {Path(name).name: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name}
    assert "Redistribution and use" in described["LICENSE"]
    assert "stem = stem_kombu_cli.main:main" in described["entry_points.txt"]
    required = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", described["METADATA"], re.MULTILINE)
    assert sorted(required) == ["billiard", "click", "kombu", "psycopg2-binary", "redis"]


def test_every_package_of_the_source_is_packaged() -> None:
    """A folder of modules without ``__init__.py`` would be left out of the wheel in silence."""
    bare = {
        path.parent.relative_to(ROOT).as_posix()
        for package in ("stem_kombu", "stem_kombu_cli")
        for path in (ROOT / package).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert bare == set()
