"""The files for service managers that ship in ``examples/``: each is run, or read by what it is for (G34)."""

from __future__ import annotations

import configparser
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stem_kombu_cli.stem_health import asked
from tests.cli.program import PROJECT, Program
from tests.waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
UNIT = EXAMPLES / "systemd" / "stem-worker@.service"
INSTANCE, HOST = "images", "host"


class Told:
    """A socket as systemd listens on, and what it was told."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(0.05)

    def have(self, line: str) -> bool:
        with contextlib.suppress(TimeoutError):
            while True:
                self.lines += self._socket.recv(4096).decode().splitlines()
        return line in self.lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Told]:
    made = Told(str(tmp_path / "notify") if request.param == "path" else f"@stem-test-{os.getpid()}-{tmp_path.name}")
    yield made
    made.close()


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser["Service"]


@pytest.mark.parametrize("told", ["path", "abstract"], indirect=True)
def test_g34_the_units_worker_tells_systemd_that_it_is_ready_alive_and_stopping(
    program_on: Callable[[str], Program], told: Told, tmp_path: Path
) -> None:
    program, service = program_on("embedded"), unit()
    assert service["Type"] == "notify"
    run = service["ExecStart"].replace("%i", INSTANCE).replace("%H", HOST)
    stem, *arguments = shlex.split(run)
    assert stem.endswith("/bin/stem")
    name, _, value = service["Environment"].partition("=")
    variables = {
        name: value.replace("%t", str(tmp_path)).replace("%i", INSTANCE),
        "STEM_APP": "shop:app",
        "NOTIFY_SOCKET": told.address,
        "WATCHDOG_USEC": "1000000",
    }
    (tmp_path / f"stem-{INSTANCE}").mkdir()
    process = subprocess.Popen(
        [str(Path(sysconfig.get_path("scripts")) / "stem"), *arguments],
        env={**program.environment, **variables}, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        eventually(lambda: told.have("READY=1"), 60)
        assert told.have(f"STATUS={INSTANCE}@{HOST} consumes default")
        eventually(lambda: told.have("WATCHDOG=1"), 60)
        assert not told.have("STOPPING=1")
        done = program.ok("worker", "healthcheck", "--json", env=variables)
        assert done.json["worker"] == f"{INSTANCE}@{HOST}"
        process.send_signal(signal.SIGTERM)
        eventually(lambda: told.have("STOPPING=1"), 60)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("told", ["path"], indirect=True)
def test_g34_the_watchdog_is_not_fed_when_a_vital_thread_hangs(told: Told) -> None:
    from stem_kombu import health_page
    from stem_kombu.clock import monotonic
    from stem_kombu.health_page import Page
    from stem_kombu_cli.service_manager import ServiceManager

    data = bytearray(health_page.SIZE)
    data[:8] = health_page.MAGIC
    text = health_page.text_of("alpha", ["main"], ["mail"])
    data[health_page.TEXT_AT : health_page.TEXT_AT + len(text)] = text
    cells = memoryview(data)[: health_page.TEXT_AT].cast("d")
    cells[health_page.TEXT] = float(len(text))
    at = health_page.THREADS_AT
    cells[at], cells[at + 1] = monotonic() - 60, 5.0
    given = {"NOTIFY_SOCKET": told.address, "WATCHDOG_USEC": "200000"}
    with ServiceManager(given, lambda: Page(bytes(data), True)):
        cells[health_page.STATE] = health_page.DRAINING
        eventually(lambda: told.have("STOPPING=1"), 30)
        assert not told.have("WATCHDOG=1")
        cells[at] = monotonic()
        eventually(lambda: told.have("WATCHDOG=1"), 30)


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "1000"}])
def test_without_systemd_nothing_is_told(environ: dict[str, str]) -> None:
    from stem_kombu_cli.service_manager import ServiceManager

    def read() -> Any:
        raise AssertionError("nothing is looked at")

    with ServiceManager(environ, read) as manager:
        manager.ready("it consumes")


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    scripts = sysconfig.get_path("scripts")
    # What only a host that has the application can have.
    text = UNIT.read_text().replace("/srv/shop/.venv/bin", scripts).replace("User=stem", "User=root")
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("WorkingDirectory=/srv/shop", f"WorkingDirectory={tmp_path}"))
    instance = tmp_path / UNIT.name.replace("@.", f"@{INSTANCE}.")
    instance.symlink_to(copy)
    done = subprocess.run([analyze, "verify", str(instance)], capture_output=True, text=True, timeout=60, check=False)
    ours = [line for line in done.stderr.splitlines() if "stem-worker" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


def test_every_probe_and_command_of_kubernetes_means_something() -> None:
    deployment = yaml.safe_load((EXAMPLES / "kubernetes" / "worker.yaml").read_text())
    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    pod = deployment["spec"]["template"]
    assert pod["metadata"]["labels"] == deployment["spec"]["selector"]["matchLabels"]
    (container,) = pod["spec"]["containers"]
    check_worker(container["command"], {one["name"] for one in container["env"]})
    questions = {name: check_probe(container[name]["exec"]["command"]) for name in container if name.endswith("Probe")}
    assert questions == {"startupProbe": "live", "livenessProbe": "live", "readinessProbe": "ready"}
    file = next(one["value"] for one in container["env"] if one["name"] == "STEM_HEALTH_FILE")
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert [mounts[volume["name"]] for volume in pod["spec"]["volumes"]] == [str(Path(file).parent)]


def test_every_check_and_command_of_compose_means_something() -> None:
    services = yaml.safe_load((EXAMPLES / "compose" / "compose.yaml").read_text())["services"]
    worker = services["worker"]
    check_worker(worker["command"], set(worker["environment"]))
    assert worker["healthcheck"]["test"][0] == "CMD"
    assert check_probe(worker["healthcheck"]["test"][1:]) == "ready"
    assert set(worker["depends_on"]) <= set(services)
    assert worker["tmpfs"] == [str(Path(worker["environment"]["STEM_HEALTH_FILE"]).parent)]


def check_worker(command: list[str], variables: set[str]) -> None:
    """The command's options are those of ``stem worker start``, and its variables are documented."""
    from stem_kombu_cli.commands.worker_start import start

    assert command[:3] == ["stem", "worker", "start"]
    start.make_context("start", command[3:])
    documented = (EXAMPLES.parent / "docs" / "configuration.md").read_text()
    assert [name for name in variables if f"`{name}`" not in documented] == []


def check_probe(command: list[str]) -> str:
    """What the probe asks; its arguments are those that the program takes."""
    program, *arguments = command
    assert program == "stem-health"
    question = asked(arguments)
    assert question is not None
    return "live" if question.live else "ready"
