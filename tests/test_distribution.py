"""What is built for the package index holds everything, and nothing else."""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

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
    assert "stem = stem_kombu_cli.__main__:main" in described["entry_points.txt"]
    required = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", described["METADATA"], re.MULTILINE)
    assert sorted(required) == ["billiard", "click", "kombu", "packaging", "psycopg2-binary", "redis"]


#: Lets through the standard library, this project and what it requires; all else is as if it were not installed.
ONLY_WHAT_IS_REQUIRED = """
import importlib.metadata as metadata, re, sys

def required(name, found):
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key not in found:
        try:
            wanted = metadata.requires(key) or []
        except metadata.PackageNotFoundError:
            return found  # for another system or interpreter
        found.add(key)
        for one in wanted:
            if "extra ==" not in one:
                required(re.match(r"[\\w.-]+", one).group(), found)
    return found

allowed = required("stem-kombu", set())
outside = {
    module for module, owners in metadata.packages_distributions().items()
    if not any(re.sub(r"[-_.]+", "-", owner).lower() in allowed for owner in owners)
}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in outside:
            raise ModuleNotFoundError("No module named " + repr(name) + " (not required by stem-kombu)")

sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize(
    "use",
    [
        *(
            f"import kombu; kombu.Connection({scheme + '://'!r}).transport"
            for scheme in ("redis", "rediss", "amqp", "amqps")
        ),
        "from stem_kombu.transports.connections import open_connection; open_connection('sqlite:////tmp/absent.db').transport",
        *(f"from stem_kombu.stores import {module}" for module in ("redis", "postgres", "sqlite", "file", "memory")),
        "from stem_kombu_cli.main import main; main(['worker', 'start', '--help'])",
        "from stem_kombu_cli.main import main; main(['demo', '--help'])",
    ],
)
def test_what_is_required_is_enough_for_every_broker_and_store(use: str) -> None:
    ran = subprocess.run([sys.executable, "-c", ONLY_WHAT_IS_REQUIRED + use], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_what_is_not_required_is_out_of_that_tests_sight() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", ONLY_WHAT_IS_REQUIRED + "import celery"], capture_output=True, text=True
    )
    assert "not required by stem-kombu" in ran.stderr


def test_every_package_of_the_source_is_packaged() -> None:
    """A folder of modules without ``__init__.py`` would be left out of the wheel in silence."""
    bare = {
        path.parent.relative_to(ROOT).as_posix()
        for package in ("stem_kombu", "stem_kombu_cli")
        for path in (ROOT / package).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert bare == set()


def _bounds(section: str, key: str) -> dict[str, Version]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = [line for line in setup[section][key].splitlines() if line and not line.startswith("#")]
    return {name: Version(bound) for name, _, bound in (line.partition(">=") for line in lines)}


def test_every_lower_bound_is_the_version_that_tox_e_lowest_tests() -> None:
    asked = _bounds("options", "install_requires")
    for extra in ("celery", "signing", "metrics", "otel", "otel-grpc", "top"):
        asked |= _bounds("options.extras_require", extra)
    lines = (ROOT / "constraints" / "lowest.txt").read_text().splitlines()
    tested: dict[str, Version] = {}
    for name, _, version in (line.partition("==") for line in lines if not line.startswith("#")):
        tested.setdefault(name, Version(version.partition(";")[0].strip()))  # others are for newer Pythons
    assert tested == asked


def test_the_page_for_a_psycopg2_of_one_s_own_names_all_that_is_required() -> None:
    page = (ROOT / "docs" / "embedding.md").read_text()
    (line,) = re.findall(r"^pip install (.*) psycopg2$", page, re.MULTILINE)
    named = {name: Version(bound) for name, bound in re.findall(r'"([\w-]+)>=([\d.]+)"', line)}
    assert named == {
        name: bound for name, bound in _bounds("options", "install_requires").items() if name != "psycopg2-binary"
    }


def test_an_audit_that_could_not_ask_is_no_clean_one() -> None:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "scripts" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    audit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    good = {"name": "kombu", "version": "5.7.0", "vulns": []}
    bad = {"name": "amqp", "version": "5.0", "vulns": [{"id": "CVE-1", "fix_versions": ["5.1"]}]}
    skipped = {"name": "vine", "skip_reason": "Dependency not found"}
    assert audit.verdict({"dependencies": [good]}) == (0, "1 packages, no known vulnerability")
    assert audit.verdict({"dependencies": [good, bad, skipped]}) == (1, "amqp 5.0: CVE-1, mended in 5.1")
    code, said = audit.verdict({"dependencies": [good, skipped]})
    assert code == 69
    assert said.startswith("not audited: 1 of 2 packages (vine …) could not be asked for")


def test_the_package_index_takes_wheel_and_sources(wheel: zipfile.ZipFile) -> None:
    pytest.importorskip("twine")
    folder = Path(str(wheel.filename)).parent
    built = subprocess.run(
        [sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('.')"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    files = [str(path) for path in (*folder.glob("*.whl"), *folder.glob("*.tar.gz"))]
    assert len(files) == 2
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_links_of_the_readme_name_files_that_are_there(wheel: zipfile.ZipFile) -> None:
    """They are relative, and the metadata has no URLs, as long as the project has no address (CONTRIBUTING, Releasing)."""
    (metadata,) = (wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    assert "Project-URL: " not in metadata
    links = re.findall(r"\]\(([^)]+)\)", metadata.partition("\n\n")[2])
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link.partition("#")[0]).is_file()] == []


def test_the_version_is_written_in_one_place(wheel: zipfile.ZipFile) -> None:
    from stem_kombu import __version__

    (metadata,) = (wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    assert f"\nVersion: {__version__}\n" in metadata
    for path in (
        *(ROOT / "stem_kombu").rglob("*.py"),
        *(ROOT / "stem_kombu_cli").rglob("*.py"),
        ROOT / "docs" / "conf.py",
    ):
        if path.name != "version.py":
            assert f'"{__version__}"' not in path.read_text(), path


def test_the_wheel_holds_nothing_that_does_not_belong_there(wheel: zipfile.ZipFile) -> None:
    pytest.importorskip("check_wheel_contents")
    # W009: two packages are meant, the library and its command line.
    asked = [sys.executable, "-m", "check_wheel_contents", "--ignore", "W009", str(wheel.filename)]
    checked = subprocess.run(asked, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture(scope="module")
def installed(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel and, from this one, what it requires."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    wheel.extractall(site)
    # A .pth file in a folder that is named by another one is not read: this environment's own Stem is not found there.
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    found = subprocess.run(
        [python, "-c", "import stem_kombu; print(stem_kombu.__file__)"], capture_output=True, text=True, cwd=folder
    )
    assert found.stdout.strip() == str(site / "stem_kombu" / "__init__.py"), found.stderr
    return python


def test_the_wheel_alone_runs_the_demo(installed: Path, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STEM_", "PYTHON"))}
    ran = subprocess.run(
        [installed, "-m", "stem_kombu_cli", "demo"],
        cwd=tmp_path,
        env={**kept, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("marked", [True, False])
def test_mypy_takes_types_from_the_wheel_because_it_says_that_it_has_some(
    installed: Path, tmp_path: Path, marked: bool
) -> None:
    pytest.importorskip("mypy")
    (site,) = installed.parents[1].glob("lib/python*/site-packages")
    marker = site / "stem_kombu" / "py.typed"
    asked = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable", str(installed)]
    asked += [
        "--cache-dir",
        str(tmp_path / f"cache-{marked}"),
        str(shutil.copy(ROOT / "tests" / "types" / "right.py", tmp_path)),
    ]
    if not marked:
        marker.unlink()
    try:
        checked = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True)
    finally:
        marker.touch()
    if marked:
        assert checked.returncode == 0, checked.stdout + checked.stderr
    else:
        assert 'analyzing "stem_kombu": module is installed, but missing library stubs or py.typed' in checked.stdout


def test_pyright_takes_types_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyright")
    shutil.copy(ROOT / "tests" / "types" / "right.py", tmp_path)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    asked = [sys.executable, "-m", "pyright", "--pythonpath", str(installed), "-p", str(tmp_path)]
    checked = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
