"""How many processors this process may use: those that it is bound to, and what its control group's quota pays for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_processors() -> int:
    """The smallest of: processors of the machine, processors of the affinity mask (``taskset``, a cpuset), and the quota of
    each control group that this process is in (v1 or v2), rounded up. At least 1."""
    counts = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        counts.append(len(os.sched_getaffinity(0)))
    counts += [math.ceil(quota) for quota in quotas(_OWN_CGROUPS, _CGROUPS)]
    return max(1, min(counts))


def quotas(own: Path, root: Path) -> Iterator[float]:
    """Each limit in processors that the groups named in ``own`` (``/proc/self/cgroup``), and the groups around them, have
    under ``root``."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:  # v2: one hierarchy
            for group in _upwards(root, path):
                yield from _quota_v2(group)
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):  # mounted as cpu,cpuacct or as cpu
                for group in _upwards(root / name, path):
                    yield from _quota_v1(group)


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """The group's folder and those around it up to ``root``. In a container its own group is often mounted as the root,
    whatever path it has outside."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    for length in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:length])


def _quota_v2(group: Path) -> Iterator[float]:
    try:
        limit, period = (group / "cpu.max").read_text().split()[:2]
        if limit != "max":
            yield int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return


def _quota_v1(group: Path) -> Iterator[float]:
    try:
        limit = int((group / "cpu.cfs_quota_us").read_text())
        if limit > 0:
            yield limit / int((group / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return
