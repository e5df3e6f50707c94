"""The one place where threads begin and end."""

from __future__ import annotations

import threading

import pytest

from stem_kombu.concurrency.service import Service, Watch, watched_by
from tests.waiting import eventually


class Owner:
    def __init__(self) -> None:
        self.told, self.held = threading.Event(), threading.Event()
        self.held.set()
        self.steps: list[str] = []
        self.fails = False
        self.background = Service(self.run, "owner", begin=self.begin, wake=self.wake, end=self.end)

    def begin(self) -> None:
        if self.fails:
            raise OSError("can't begin")
        self.told.clear()
        self.steps.append("begin")

    def run(self) -> None:
        self.told.wait(30)
        self.held.wait(30)
        self.steps.append("ran")

    def wake(self) -> None:
        self.told.set()

    def end(self) -> None:
        self.steps.append("end")


def test_it_runs_once_between_a_start_and_a_stop() -> None:
    owner = Owner()
    owner.background.stop()
    assert owner.background.start()
    assert owner.background.start()
    assert owner.background.runs
    owner.background.stop()
    owner.background.stop()
    assert not owner.background.runs
    assert owner.steps == ["begin", "ran", "end"]


def test_it_begins_when_it_is_needed_first_and_not_after_a_stop() -> None:
    owner = Owner()
    owner.background.needed()
    assert not owner.background.runs, "it was not started"
    owner.background.start_when_needed()
    assert owner.background.is_deferred and not owner.background.runs
    owner.background.needed()
    owner.background.needed()
    assert owner.background.runs and not owner.background.is_deferred
    owner.background.stop()
    owner.background.needed()
    owner.background.start_when_needed()
    owner.background.stop()
    owner.background.needed()
    assert not owner.background.runs
    assert owner.steps == ["begin", "ran", "end"]


def test_what_fails_to_begin_can_be_started_again() -> None:
    owner = Owner()
    owner.fails = True
    with pytest.raises(OSError, match="can't begin"):
        owner.background.start()
    owner.background.stop()
    owner.fails = False
    owner.background.start()
    owner.background.stop()
    assert owner.steps == ["begin", "ran", "end"]


def test_a_thread_that_can_not_be_had_leaves_nothing_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _no_thread)
        with pytest.raises(RuntimeError, match="no more threads"):
            owner.background.start()
    assert owner.steps == ["begin", "end"]
    owner.background.stop()  # nothing is joined that never ran
    owner.background.start()
    owner.background.stop()
    assert owner.steps[2:] == ["begin", "ran", "end"]


def test_a_start_that_was_overtaken_by_a_stop_starts_nothing() -> None:
    owner = Owner()
    stops = owner.background.stops
    owner.background.stop()
    assert not owner.background.start(stops)
    assert owner.steps == []


def test_a_thread_that_outlives_its_stop_is_waited_for_before_the_next_one_starts() -> None:
    owner = Owner()
    owner.held.clear()
    owner.background.start()
    owner.background.stop(0.0)
    again = threading.Thread(target=owner.background.start)
    again.start()
    assert owner.steps == ["begin", "end"]  # the first one still runs, so no second one has begun
    owner.held.set()
    again.join(30)
    owner.background.stop()
    assert owner.steps == ["begin", "end", "ran", "begin", "ran", "end"]


def _no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("no more threads")


def test_g18_a_thread_that_an_unexpected_error_ends_is_started_again_and_told_of() -> None:
    fails = iter([ValueError("once"), SystemExit("twice")])
    ran, told = threading.Event(), threading.Event()

    def run() -> None:
        for error in fails:
            raise error
        ran.set()
        told.wait(30)

    watch = Watch(lambda *_: None)
    with watched_by(watch):
        background = Service(run, "fails", begin=told.clear, wake=told.set)
    background.start()
    assert ran.wait(30)
    background.stop()
    assert watch.restarts == {"fails": 2}


def test_a_thread_that_fails_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stem_kombu.timeouts.SERVICE_LONGEST_PAUSE", 0.001)
    gone: list[tuple[str, str]] = []
    with watched_by(Watch(lambda name, error: gone.append((name, str(error))))):
        background = Service(lambda: [].remove(1), "fails", wake=lambda: None)
    background.start()
    eventually(lambda: gone == [("fails", "list.remove(x): x not in list")])
    background.stop()


def test_a_thread_that_fails_while_it_is_stopped_is_not_started_again() -> None:
    told = threading.Event()
    gone: list[str] = []

    def run() -> None:
        told.wait(30)
        raise ValueError("at its end")

    with watched_by(Watch(lambda name, _: gone.append(name))):
        background = Service(run, "fails", wake=told.set)
    background.start()
    background.stop()
    assert gone == []
    assert not background.runs
