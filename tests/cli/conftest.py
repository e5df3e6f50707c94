"""Fleets for the tests of the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.cli.shop_fleet import Shop


@pytest.fixture
def stem(tmp_path: Path) -> Iterator[Program]:
    """The program, on the embedded default of this test alone."""
    program = Program(tmp_path, {})
    yield program
    program.close()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Program]:
    """The program on an embedded broker that is named, so that nothing is announced."""
    program = Program(
        tmp_path,
        {
            "STEM_BROKER_URL": f"sqlite://{tmp_path / 'broker.db'}",
            "STEM_RESULT_BACKEND_URL": f"sqlite://{tmp_path / 'state.db'}",
        },
    )
    yield program
    program.close()


#: Commands end when everybody has answered; on a busy machine that may take longer than the default of five seconds.
_PATIENT = {"STEM_CONTROL_TIMEOUT": "30s"}


def _program(kind: str, folder: Path, request: pytest.FixtureRequest) -> Program:
    state = f"sqlite://{folder / 'state.db'}"
    if kind == "embedded":
        return Program(
            folder,
            {**_PATIENT, "STEM_BROKER_URL": f"sqlite://{folder / 'broker.db'}", "STEM_RESULT_BACKEND_URL": state},
        )
    if kind == "redis":
        server = request.getfixturevalue("redis_server")
        server.start()
        url = server.new_database()
        return Program(folder, {**_PATIENT, "STEM_BROKER_URL": url, "STEM_RESULT_BACKEND_URL": url})
    server = request.getfixturevalue("rabbitmq_server")
    server.start()
    return Program(folder, {**_PATIENT, "STEM_BROKER_URL": server.new_vhost(), "STEM_RESULT_BACKEND_URL": state})


@pytest.fixture(scope="session", params=["embedded", "redis", "amqp"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Two workers with two isolates each, ``alpha`` and ``bravo``, on each broker in turn; shared by all tests."""
    program = _program(request.param, tmp_path_factory.mktemp("fleet"), request)
    try:
        started = [program.begin_worker("--name", name, "--concurrency", "2") for name in ("alpha", "bravo")]
        for worker in started:
            worker.wait_ready()
        yield program
    finally:
        program.close()


@pytest.fixture
def program_on(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    """``program_on("redis")``: the program on a fresh broker of that kind, with no worker yet."""
    programs: list[Program] = []

    def made(kind: str) -> Program:
        programs.append(_program(kind, tmp_path, request))
        return programs[-1]

    yield made
    for program in programs:
        program.close()


@pytest.fixture
def shop_on(program_on: Callable[[str], Program], tmp_path: Path) -> Iterator[Callable[[str], Shop]]:
    shops: list[Shop] = []

    def made(kind: str) -> Shop:
        shops.append(Shop(program_on(kind), tmp_path))
        return shops[-1]

    yield made
    for shop in shops:
        shop.close()
