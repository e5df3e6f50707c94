"""Wrong input to the commands that steer a fleet: each is answered with the object, the value and the next step, with the same
exit code in text and in JSON, and stores nothing.

What is refused before the broker is looked at is tried without one. What the fleet or its store decides is tried on each broker.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from stem_kombu.testing.ports import free_port
from tests.cli.program import Done, Program
from tests.servers.postgres import session
from tests.servers.rabbitmq import RabbitServer

ROOT = Path(__file__).resolve().parents[2]
_DURATIONS = "accepted: 250ms, 5s, 1.5m, 2h, 7d"
_NUMBER = "give N, +N, -N or default"
_RATES = "accepted: 10/s, 100/m, 5000/h"

#: Arguments, what the error says, and the next step: part of the error, or of its hint.
USAGE = [
    ("queue pause", "name a QUEUE", "--all-queues"),
    ("queue pause mail --for -1s", "--for: '-1s' is not a duration", _DURATIONS),
    ("queue pause mail --for soon", "--for: 'soon' is not a duration", _DURATIONS),
    ("queue pause mail --for 0s", "--for: '0s' must be more than zero", _DURATIONS),
    ("queue pause mail --until nonsense", "--until: 'nonsense' is no time", "accepted: 2026-01-31T14:00:00Z"),
    ("queue pause mail --until 2001-01-01T00:00:00Z", "--until: '2001-01-01T00:00:00Z' has passed", "--help"),
    ("queue pause mail --for 1h --until 2999-01-01T00:00:00Z", "--for and --until exclude each other", "--help"),
    ("queue pause mail --all-queues", "--all-queues names them all", "--help"),
    ("queue pause amq.x", "queue name 'amq.x' begins with 'amq.'", "give the queue another name"),
    ("queue resume", "name a QUEUE", "--all-queues"),
    ("queue resume mail --at 5/fortnight", "'5/fortnight' is no rate", _RATES),
    ("queue resume mail --at 0/s", "'0/s' starts no task at all", "stem queue pause"),
    ("worker scale", "Missing argument 'N|+N|-N|default'", "--help"),
    ("worker scale 0", "'0' is no number of children", "stem worker pause"),
    ("worker scale +0", "'+0' is no number of children", _NUMBER),
    ("worker scale many", "'many' is no number of children", _NUMBER),
    ("worker scale 1025", "'1025' is no number of children", "from 1 to 1024"),
    ("worker scale 3 --for -1s", "--for: '-1s' is not a duration", _DURATIONS),
    ("worker autoscale 4,2", "from 4 to 2 children is no range", "MIN <= MAX"),
    ("worker autoscale 0,2", "from 0 to 2 children is no range", "stem worker pause"),
    ("worker autoscale 5", "'5' is no range of children", "accepted: MIN,MAX"),
    ("worker autoscale 1,4 --backlog-per-child 0", "a backlog of 0 for each child", "from 1 to 1000000"),
    ("worker autoscale 1,4 --up-after -1s", "--up-after: '-1s' is not a duration", _DURATIONS),
    ("worker rate-limit 10/s", "give either --queue or --name", "--help"),
    ("worker rate-limit -q mail --name a.b 10/s", "give either --queue or --name", "--help"),
    ("worker rate-limit -q mail", "Missing argument 'RATE|default'", "--help"),
    ("worker rate-limit -q mail 5/fortnight", "'5/fortnight' is no rate", _RATES),
    ("worker rate-limit -q mail 0/s", "'0/s' starts no task at all", "stem queue pause"),
    ("worker rate-limit --name a.b 10/s --for -1s", "--for: '-1s' is not a duration", _DURATIONS),
    ("worker log-level loud", "'loud' is not one of 'debug', 'info'", "--help"),
    ("worker log-level debug --for -1s", "--for: '-1s' is not a duration", _DURATIONS),
    ("worker shutdown", "name the workers with --worker", "--all"),
    ("worker shutdown -w alpha --all", "name the workers with --worker", "--all"),
    ("worker shutdown -w alpha --mode cold", "'cold' is not one of 'warm', 'soft', 'hard'", "--help"),
    ("worker shutdown -w alpha --then later", "'later' is not one of 'soft', 'hard'", "--help"),
    ("worker shutdown -w alpha --mode hard --then soft", "--then soft is no more than --mode hard", "--help"),
    ("worker shutdown -w alpha --exit-code 3", "'3' is not one of '0', '75'", "--help"),
    ("worker shutdown -w alpha --grace -1s", "--grace: '-1s' is not a duration", _DURATIONS),
    ("worker shutdown --all --rolling --max-unavailable 0", "'0' is neither a number of workers", "such as 2 or 25%"),
    ("worker shutdown --all --rolling --max-unavailable 150%", "'150%' is neither", "such as 2 or 25%"),
    ("worker shutdown -w alpha --max-unavailable 2", "--max-unavailable is for --rolling", "leave it out"),
    ("worker shutdown -w alpha --replacement-timeout 9s", "--replacement-timeout is for --rolling", "leave it out"),
    ("directives clear", "give VERSIONs, --kind or --all", "--help"),
    ("directives clear abc", "'abc' is not", "--help"),
    ("directives clear --all --kind pause", "give VERSIONs, --kind or --all", "--help"),
    ("directives clear --kind colour", "'colour' is not one of 'pause', 'concurrency'", "--help"),
]  # fmt: skip

#: Arguments, exit code, what the error says, and the next step: with two workers that consume the queue ``default``.
FLEET = [
    ("queue pause default", 5, "this pauses queue default on every worker", "add --yes"),
    ("worker pause", 5, "this pauses all queues on every worker", "add --yes"),
    ("worker scale 3", 5, "this sets the isolate children of every worker", "add --yes"),
    ("worker autoscale 1,4", 5, "not confirmed", "add --yes"),
    ("worker rate-limit -q default 10/s", 5, "this limits the whole fleet", "add --yes"),
    ("worker shutdown --all", 5, "this shuts down 2 workers", "add --yes"),
    ("queue resume default --yes", 4, "no live pause is about queue default; nothing was stored", "stem directives list"),
    ("queue resume nosuch --at 5/s --yes", 4, "no live pause is about queue nosuch", "stem directives list"),
    ("worker resume -w alpha", 4, "no live pause is about all queues on alpha", "stem directives list"),
    ("worker scale default --yes", 4, "no directive about isolate children", "stem directives list"),
    ("worker autoscale off --yes", 4, "no autoscale is in force there", "stem directives list"),
    ("worker rate-limit -q default default --yes", 4, "no directive about a rate limit of queue default", "stem directives"),
    ("worker log-level default", 4, "no directive about log levels", "stem directives list --kind log-level"),
    ("directives clear 12345 --yes", 4, "no live directive has version 12345", "stem directives list"),
    ("worker shutdown -w nobody --yes", 4, "nobody (no worker of that name is known", "stem worker status"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "said", "next_step"), USAGE, ids=[line for line, _, _ in USAGE])
def test_wrong_usage_names_object_value_and_next_step(stem: Program, line: str, said: str, next_step: str) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"  # nothing is asked of it, or the exit code would be 74
    places = {"STEM_BROKER_URL": nowhere, "STEM_RESULT_BACKEND_URL": nowhere}
    yes = () if line.startswith("worker log-level") else ("--yes",)
    _expect_error(stem.run(*line.split(), *yes, "--json", env=places), 2, said, next_step)


def test_what_the_fleet_decides_is_refused_alike_in_text_and_json_and_stores_nothing(fleet: Program) -> None:
    before = fleet.ok("directives", "list", "--history", "--json").json["directives"]  # of tests that ran on it before
    for line, code, said, next_step in FLEET:
        done = fleet.run(*line.split())
        assert (done.code, said in done.err, next_step in done.err) == (code, True, True), (line, done)
        done = fleet.run(*line.split(), "--json")
        assert (done.code, bool(done.json)) == (code, True), (line, done)
        if "error" in done.json:
            assert (said in done.json["error"], next_step in (done.json["hint"] or "")) == (True, True), (line, done)
    assert fleet.ok("directives", "list", "--history", "--json").json["directives"] == before


def _expect_error(done: Done, code: int, said: str, next_step: str) -> None:
    assert done.code == code, done
    document = done.json
    assert (document["schema"], document["code"], document["stored"]) == ("stem.error/1", code, []), done
    assert said in document["error"], done
    assert next_step in f"{document['error']} {document['hint']}", done
    assert document["error"] in done.err and document["hint"] in done.err, done


@pytest.mark.parametrize("kind", ["embedded", "redis", "amqp"])
def test_a_change_for_a_worker_that_is_not_known_says_so_and_how_to_take_it_back(
    kind: str, program_on: Callable[[str], Program]
) -> None:
    program = program_on(kind)
    lines = ("pause", "scale 3", "autoscale 1,4", "rate-limit -q default 10/s", "log-level debug")
    for line in lines if kind == "embedded" else lines[:1]:  # each waits for a worker that may be on its way
        done = program.run("worker", *line.split(), "-w", "nobody")
        version = program.ok("directives", "list", "--json").json["directives"][0]["version"]
        assert done.code == 0, done
        assert "nobody (no worker of that name is known" in done.err
        assert "it applies to workers nobody that start later; `stem worker status` shows who is there" in done.err
        assert f"`stem directives clear {version}` takes it back" in done.err
        program.ok("directives", "clear", str(version), "--yes")


@pytest.mark.parametrize(
    "line",
    ["queue pause mail", "queue resume mail", "worker scale 3", "worker autoscale 1,4", "worker rate-limit -q mail 1/s",
     "directives clear --all"],
)  # fmt: skip
def test_a_store_that_holds_no_directives_is_named_before_anything_is_sent(embedded: Program, line: str) -> None:
    command = [sys.executable, "-m", "tests.cli.recordless_program", *line.split(), "--yes", "--json"]
    run = subprocess.run(
        command, cwd=ROOT, env=embedded.environment, capture_output=True, text=True, timeout=90, check=False
    )
    done = Done(run.returncode, run.stdout, run.stderr)
    _expect_error(done, 2, f"{embedded.folder.name}/state.db can't store directives", "use Redis")


def test_a_store_without_tables_and_without_the_right_to_make_them_is_named_with_that_right(
    rabbitmq_server: RabbitServer, postgres_url: str, tmp_path: Path
) -> None:
    """RabbitMQ and PostgreSQL: an operator's role that may create nothing, before a worker or an administrator has."""
    rabbitmq_server.start()
    parts = urlsplit(postgres_url)
    role = f"operator_{parts.path.lstrip('/')}"
    with session(postgres_url) as cursor:
        cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'")
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    weak = f"postgresql://{role}:pw@{parts.hostname}:{parts.port}{parts.path}"
    program = Program(tmp_path, {"STEM_BROKER_URL": rabbitmq_server.new_vhost(), "STEM_RESULT_BACKEND_URL": weak})
    try:
        for line in ("queue pause mail", "worker scale 3", "worker rate-limit -q mail 1/s", "directives clear --all"):
            done = program.run(*line.split(), "--yes", "--json")
            _expect_error(done, 74, "permission denied", "CREATE")
            assert "pw" not in done.err.replace("postgresql", "")
    finally:
        with session(postgres_url) as cursor:
            cursor.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
