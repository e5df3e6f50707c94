"""docs/permissions.md: each recipe, as it stands there, is enough for a worker and for every command of an operator."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
import redis

from stem_kombu.testing.gates import Gate
from tests.cli.program import Program
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer
from tests.waiting import eventually

PAGE = (Path(__file__).parents[2] / "docs" / "permissions.md").read_text()


def blocks(heading: str) -> list[str]:
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```text\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path, {"STEM_CONTROL_TIMEOUT": "30s"})
    yield made
    made.close()


def works(program: Program, **places: str) -> None:
    """A worker runs tasks inline and in a child, and obeys; operators see and stop it; nothing is complained of."""
    env = {f"STEM_{name.upper()}": value for name, value in places.items()}
    assert program.run("health", env=env).code == 0
    worker = program.start_worker("--name", "w1", "--concurrency", "1", env=env)
    sent = program.run("task", "send", "shop.add", "--kwargs", '{"a": 1}', "--id", "one", env=env)
    assert sent.code == 0, sent
    eventually(lambda: '"succeeded"' in program.run("task", "show", "one", "--json", env=env).out, 60)
    gate = Gate(program.folder / "gate")
    kwargs = json.dumps({"gate": gate.path})
    assert program.run("task", "send", "shop.report", "--kwargs", kwargs, "--id", "two", env=env).code == 0
    gate.wait_reached()
    revoked = program.run("worker", "revoke", "--task", "two", "--terminate", env=env)
    assert revoked.code == 0, revoked
    for command in ("ping", "inspect", "stats", "status"):
        done = program.run("worker", command, env=env)
        assert done.code == 0, done
    assert worker.terminate() == 0
    refused = [
        line for line in worker.err.splitlines() if re.search(r"NOPERM|ACCESS_REFUSED|42501|no right|denied", line)
    ]
    assert refused == []


def test_the_recipe_for_redis(program: Program, start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    (recipe,) = blocks("Redis")
    administrator = redis.Redis.from_url(server.url)
    administrator.execute_command(*recipe.split())
    url = server.url.replace("redis://", "redis://shop:secret@")
    works(program, broker_url=url, result_backend_url=url, revoke_store_url=url)
    refused = [entry for entry in administrator.acl_log() if entry["username"] in ("shop", b"shop")]
    assert refused == []
    with pytest.raises(redis.exceptions.NoPermissionError):
        redis.Redis.from_url(url).set("another-application", "1")


@pytest.mark.parametrize("number", [0, 1], ids=["making queues", "with queues made beforehand"])
def test_the_recipes_for_rabbitmq(program: Program, rabbitmq_server: RabbitServer, tmp_path: Path, number: int) -> None:
    url = rabbitmq_server.new_vhost()
    vhost = url.rpartition("/")[2]
    rights = shlex.split(blocks("RabbitMQ")[number])[-3:]
    user = f"shop{number}"
    erlang = ", ".join(f'<<"{right}">>'.replace("\\", "\\\\") for right in rights)
    rabbitmq_server.evaluate(f'rabbit_auth_backend_internal:add_user(<<"{user}">>, <<"secret">>, <<"tests">>)')
    try:
        rabbitmq_server.evaluate(
            f'rabbit_auth_backend_internal:set_permissions(<<"{user}">>, <<"{vhost}">>, {erlang}, <<"tests">>)'
        )
        state = f"sqlite://{tmp_path / 'state.db'}"
        places = {"result_backend_url": state, "revoke_store_url": state}
        if number:
            from kombu import Connection, Queue

            with Connection(url) as connection:
                Queue("default", durable=True)(connection.default_channel).declare()
            places["celery_events"] = "false"
        own = re.sub(r"//[^@]*@", f"//{user}:secret@", url)
        works(program, broker_url=own, **places)
    finally:
        rabbitmq_server.evaluate(f'rabbit_auth_backend_internal:delete_user(<<"{user}">>, <<"tests">>)')


def test_the_recipe_for_postgres(program: Program, postgres_url: str, embedded_url: str) -> None:
    (grants,) = blocks("PostgreSQL")
    script = program.ok("health", "--print-ddl").out
    database = postgres_url.rpartition("/")[2]
    role = f"shop_{database}"
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        cursor.execute(script)
        cursor.execute(re.sub(r"\bshop\b", role, grants))
    connection.close()
    url = re.sub(r"//[^@]*@", f"//{role}:secret@", postgres_url)
    try:
        works(program, broker_url=embedded_url, result_backend_url=url, revoke_store_url=url)
    finally:
        with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP OWNED BY {role}")
            cursor.execute(f"DROP ROLE {role}")
        connection.close()
