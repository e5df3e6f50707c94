"""How many processors a process may use, as control groups say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stem_kombu.processors import quotas, usable_processors


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/app\n", {"app/cpu.max": "150000 100000"}, [1.5]),
        ("0::/app/inner\n", {"app/cpu.max": "200000 100000", "app/inner/cpu.max": "max 100000"}, [2.0]),
        ("0::/\n", {"cpu.max": "50000 100000"}, [0.5]),  # a container, whose group is mounted as the root
        ("0::/outside/of/it\n", {"cpu.max": "50000 100000"}, [0.5]),
        ("0::/../..\n", {"cpu.max": "50000 100000"}, [0.5]),
        ("4:cpu,cpuacct:/app\n0::/\n", {"cpu,cpuacct/app/cpu.cfs_quota_us": "300000"}, [3.0]),
        ("4:cpu:/app\n", {"cpu/app/cpu.cfs_quota_us": "-1"}, []),
        ("4:memory:/app\n", {"cpu/app/cpu.cfs_quota_us": "300000"}, []),
        ("0::/app\n", {"app/cpu.max": "nonsense"}, []),
        ("0::/app\n", {}, []),
        ("", {}, []),
        ("nonsense\n", {}, []),
    ],
)
def test_quotas_of_either_version_are_read_from_the_own_group_and_those_around_it(
    tmp_path: Path, own: str, files: dict[str, str], expected: list[float]
) -> None:
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
        if "quota" in name:
            path.with_name("cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "own").write_text(own)
    assert list(quotas(tmp_path / "own", tmp_path / "cgroup")) == expected


def test_there_is_at_least_one_processor() -> None:
    assert usable_processors() >= 1
