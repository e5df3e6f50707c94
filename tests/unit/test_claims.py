"""Whether the worker that holds an id lives, as far as another worker can tell."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from stem_kombu.agent.claims import Claims
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.processes import Presence, Process, presence

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
HERE = Process.here()
HOST = socket.gethostname()
linux_only = pytest.mark.skipif(HERE is None, reason="this system does not tell which process is which")


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this namespace, which waits."""
    process = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.communicate()


def of(process: subprocess.Popen[bytes]) -> Process:
    assert HERE is not None
    started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
    return replace(HERE, pid=process.pid, started=started)


def seen(process: Process) -> Presence:
    return presence(process, HOST, process.pid, HERE, HOST)


@linux_only
def test_g38_a_process_of_this_namespace_is_seen_to_live_and_to_end(other: subprocess.Popen[bytes]) -> None:
    known = of(other)
    assert seen(known) is Presence.ALIVE

    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert seen(known) is Presence.GONE, "a killed one that its parent has not waited for"
    other.wait()
    assert seen(known) is Presence.GONE


@linux_only
def test_g38_a_process_id_that_was_given_to_another_process_is_not_taken_for_the_first(
    other: subprocess.Popen[bytes],
) -> None:
    known = of(other)

    assert seen(replace(known, started=known.started - 1)) is Presence.GONE
    assert HERE is not None
    assert seen(replace(HERE, started=HERE.started - 1)) is Presence.GONE
    assert seen(HERE) is Presence.ALIVE


@linux_only
@pytest.mark.parametrize("elsewhere", [{"boot_id": "another"}, {"namespace": 1}])
def test_g38_nothing_is_concluded_about_another_kernel_or_namespace(elsewhere: dict[str, object]) -> None:
    assert HERE is not None
    assert seen(replace(HERE, **elsewhere)) is Presence.UNKNOWN  # type: ignore[arg-type]


def test_g38_without_a_word_about_processes_only_an_absent_process_id_of_this_host_is_gone() -> None:
    absent = subprocess.Popen([sys.executable, "-c", ""])
    absent.wait()

    assert presence(None, HOST, absent.pid, None, HOST) is Presence.GONE
    assert presence(None, HOST, os.getppid(), None, HOST) is Presence.UNKNOWN
    assert presence(None, "elsewhere", absent.pid, None, HOST) is Presence.UNKNOWN
    # An entry of 0.1.0: where there are namespaces, its process id says nothing.
    if HERE is not None:
        assert presence(None, HOST, absent.pid, HERE, HOST) is Presence.UNKNOWN


BEAT = Heartbeat(
    namespace="stem",
    worker="w",
    boot="other",
    inbox="i",
    interval=10.0,
    hostname="elsewhere",
    pid=1,
    version="1",
    timestamp=NOW,
)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_g38_an_unseen_holder_is_watched_until_its_next_heartbeat_was_due() -> None:
    claims = Claims(HERE)

    assert not claims.is_over(BEAT, BEAT, at(4), 100.0)
    left = claims.left(BEAT, 100.0)
    assert left is not None
    assert 6.0 < left < 8.0
    assert not claims.is_over(BEAT, BEAT, at(9), 105.0)
    assert claims.is_over(BEAT, BEAT, at(12), 100.0 + left)


def test_g38_an_unseen_holder_that_beats_again_lives() -> None:
    claims = Claims(HERE)
    assert not claims.is_over(BEAT, BEAT, at(4), 100.0)
    again = replace(BEAT, timestamp=at(10))

    assert not claims.is_over(again, again, at(10), 106.0)
    assert claims.left(again, 106.0) is None


def test_g38_an_overdue_holder_gets_a_whole_interval_more() -> None:
    # Its roster may have been away: then it tries again after an interval.
    claims = Claims(HERE)

    assert not claims.is_over(BEAT, BEAT, at(15), 100.0)
    left = claims.left(BEAT, 100.0)
    assert left is not None
    assert left > 10.0
    assert claims.is_over(BEAT, BEAT, at(31), 116.0), "stale"


def test_g38_another_successor_is_watched_anew() -> None:
    claims = Claims(HERE)
    assert not claims.is_over(BEAT, BEAT, at(9), 100.0)
    successor = replace(BEAT, boot="third", timestamp=at(10))

    assert not claims.is_over(successor, successor, at(12), 103.0)
    assert claims.left(successor, 103.0) is not None


def test_g38_a_boot_of_this_process_holds_its_id_until_it_is_forgotten() -> None:
    claims = Claims(None)
    mine = replace(BEAT, boot="mine", hostname=HOST, pid=os.getpid())

    Claims(None).add("mine")
    assert not claims.is_over(mine, mine, at(1), 100.0)
    assert claims.left(mine, 100.0) is None
    Claims(None).forget("mine")
    assert claims.is_over(mine, mine, at(1), 100.0)
