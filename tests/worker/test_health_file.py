"""G34: the health file of a live worker stays, whatever other workers of its host start and end, and whatever removes it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.agent.health_file import HealthFile
from stem_kombu.concurrency.pulse import Pulses
from stem_kombu.control.server.worker_view import WorkerIdentity
from stem_kombu.errors import ConfigurationError
from stem_kombu.health_page import DRAINING, RUNNING, Page, health_of
from stem_kombu.settings import Settings
from stem_kombu.worker.worker import Worker
from tests.waiting import eventually
from tests.worker.conftest import WorkerMaker


def made(path: str | None = None) -> tuple[HealthFile, Pulses]:
    pulses = Pulses()
    pulses.thread("main", 60.0).beat()
    pulses.synced.beat()
    settings = replace(Settings.from_env({}), health_file=path)
    return HealthFile(settings, WorkerIdentity.here("stem", "alpha", datetime.now(timezone.utc)), pulses), pulses


def state_of(file: HealthFile) -> str:
    return health_of(Page.at(str(file.path)), time.monotonic()).state


def test_g34_a_second_worker_of_the_same_id_is_refused_and_the_first_keeps_its_file(
    worker: Worker, make_worker: WorkerMaker
) -> None:
    path = worker.agent.health.path
    assert path is not None
    inode = path.stat().st_ino
    with pytest.raises(ConfigurationError, match="taken by a live worker"):
        make_worker("alpha", concurrency=1)
    assert path.stat().st_ino == inode
    eventually(lambda: health_of(Page.at(str(path)), time.monotonic()).state == "ok")


def test_g34_a_worker_of_another_fleet_that_has_the_place_gives_it_back_when_it_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "alpha.health")
    first, _ = made(path)
    second, _ = made(path)
    first.start()
    first.claim()
    first.show(RUNNING, ["default"])
    second.start()
    assert Page.at(path).cells[:] == first.read().cells[:]  # not before it has its id
    second.claim()
    assert "in use by process" in caplog.text
    assert state_of(second) == "starting"
    first.keep()
    first.show(DRAINING)
    assert state_of(second) == "starting"  # the first does not take it while the second lives
    second.stop()
    assert not Path(path).exists()
    first.keep()
    assert state_of(first) == "draining"
    assert Page.at(path).queues == ["default"]
    first.stop()
    assert not Path(path).exists()


@pytest.mark.parametrize(
    "remove", [Path.unlink, lambda path: shutil.rmtree(path.parent)], ids=["the file", "its folder"]
)
def test_g34_a_file_that_was_removed_is_put_back_and_stamped_on(tmp_path: Path, remove: Callable[[Path], Any]) -> None:
    path = tmp_path / "runtime" / "alpha.health"
    path.parent.mkdir()
    file, pulses = made(str(path))
    file.start()
    file.show(RUNNING, ["default"])
    remove(path)
    file.keep()
    assert state_of(file) != "gone"
    before = Page.at(str(path)).cells[:]
    pulses.consumed.beat()
    after = Page.at(str(path)).cells[:]
    assert before != after
    assert state_of(file) == "ok"
    file.stop()


def test_g34_what_a_killed_worker_left_is_taken_over_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "alpha.health"
    code = (
        "import os, sys; from tests.worker.test_health_file import made;"
        "file, _ = made(sys.argv[1]); file.start(); file.claim(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60)
    assert not Page.at(str(path)).alive
    file, _ = made(str(path))
    file.start()
    assert Page.at(str(path)).alive
    file.claim()
    assert caplog.text == ""
    file.stop()


def test_g34_without_a_place_for_the_file_the_page_is_stamped_for_probes_by_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stem").write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    file, pulses = made()
    file.start()
    file.claim()
    file.keep()
    assert file.path is None
    file.show(RUNNING, ["default"])
    pulses.consumed.beat()
    assert health_of(file.read(), time.monotonic()).ready


def test_g34_a_file_that_can_not_be_put_back_is_said_once_and_probes_by_http_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "runtime"
    folder.mkdir()
    file, pulses = made(str(folder / "alpha.health"))
    file.start()
    file.show(RUNNING, ["default"])
    shutil.rmtree(folder)
    folder.write_text("no folder any more")
    file.keep()
    file.keep()
    assert caplog.text.count("can't be put back") == 1
    pulses.consumed.beat()
    assert health_of(file.read(), time.monotonic()).ready
    file.stop()
