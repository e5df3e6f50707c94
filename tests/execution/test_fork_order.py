"""What a worker hears of a child that was forked for it."""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Iterator

import pytest

from stem_kombu.execution.pool.fork_order import ForkedProcess, tell


@pytest.fixture
def high() -> Iterator[int]:
    """A number that ``select.select`` does not take, as descriptors of a program with many connections have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this system allows too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    yield 1200
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_g18_the_end_of_a_child_is_seen_by_a_worker_with_many_descriptors(high: int) -> None:
    reader, writer = os.pipe()
    pipe = fcntl.fcntl(reader, fcntl.F_DUPFD_CLOEXEC, high)
    os.close(reader)
    tell(writer, 4711)
    child = ForkedProcess(pipe)
    child.join(0.0)
    assert (child.pid, child.exitcode) == (4711, None)
    tell(writer, 3)
    os.close(writer)
    child.join(30)
    assert child.exitcode == 3
