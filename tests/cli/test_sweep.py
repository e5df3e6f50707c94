"""``stem worker sweep``: what dead workers held on Redis goes back to the queues, where Celery sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from stem_kombu.transports.redis.recovery import BETWEEN
from tests.cli.program import Program
from tests.waiting import eventually

OPTIONS = '{"visibility_timeout": 1, "global_keyprefix": "team:"}'


@pytest.fixture
def on_redis(tmp_path: Path, redis_url: str) -> Iterator[Program]:
    program = Program(
        tmp_path,
        {"STEM_BROKER_URL": redis_url, "STEM_BROKER_TRANSPORT_OPTIONS": OPTIONS, "PYTHONPATH": str(tmp_path)},
    )
    yield program
    program.close()


def leave_behind(url: str, prefix: str = "team:") -> None:
    """What two dead workers leave: one of today a leased message, one of 0.1.0 messages in landings."""
    client = Celery("c", broker=url)
    client.conf.broker_transport_options = {"global_keyprefix": prefix}
    for _ in range(4):
        client.send_task("work", queue="jobs", ignore_result=True)
    client.close()
    with redis.Redis.from_url(url) as server:
        queue, unacked = f"{prefix}jobs", f"{prefix}stem-unacked"
        text = server.rpop(queue)
        server.hset(unacked, "dead.1", b"[" + text + b', "", "jobs"]')
        server.zadd(f"{unacked}-index", {"dead.1": server.time()[0] - 5})
        for number, registered in enumerate((True, False)):
            landing = f"{unacked}-landings:dead:0:{number}"
            server.lmove(queue, landing, "RIGHT", "LEFT")
            if registered:
                server.zadd(f"{unacked}-landings", {f"{landing}{BETWEEN}{queue}": server.time()[0] - 100})


def waiting(url: str) -> int:
    with redis.Redis.from_url(url) as server:
        return int(server.llen("team:jobs"))


def test_g18_what_dead_workers_held_goes_back_to_its_queues(on_redis: Program, redis_url: str) -> None:
    leave_behind(redis_url)
    assert waiting(redis_url) == 1
    done = on_redis.run("worker", "sweep", "--json")
    assert done.code == 0, done
    assert (done.json["schema"], done.json["transport"]) == ("stem.sweep/1", "redis")
    assert (done.json["returned"], done.json["leased"]) == (3, 0)
    assert waiting(redis_url) == 4
    again = on_redis.run("worker", "sweep")
    assert (again.code, again.out) == (0, "returned: 0 messages; still leased: 0 messages\n"), again


def test_g19_what_a_living_worker_holds_stays_with_it_and_the_code_is_3(on_redis: Program, redis_url: str) -> None:
    leave_behind(redis_url)
    with redis.Redis.from_url(redis_url) as server:
        server.zadd("team:stem-unacked-index", {"dead.1": server.time()[0] + 60})  # as one that is renewed
        done = on_redis.run("worker", "sweep")
        assert (done.code, done.out) == (3, "returned: 2 messages; still leased: 1 message\n"), done
        assert "--wait" in done.err
        # and when its lease is over while the command waits
        server.zadd("team:stem-unacked-index", {"dead.1": server.time()[0] + 1})
    waited = on_redis.run("worker", "sweep", "--wait", "30s", "--json")
    assert (waited.code, waited.json["returned"], waited.json["leased"]) == (0, 1, 0), waited
    assert waiting(redis_url) == 4


def test_a_killed_worker_leaves_what_it_held_to_a_consumer_of_celery(on_redis: Program, redis_url: str) -> None:
    (on_redis.folder / "hung.py").write_text(
        "import time\nfrom stem_kombu import Stem\napp = Stem('hung')\n"
        "@app.task('work')\ndef work(ctx):\n    time.sleep(600)\n"
    )
    client = Celery("c", broker=redis_url)
    client.conf.broker_transport_options = {"global_keyprefix": "team:"}
    for _ in range(3):
        client.send_task("work", queue="jobs", ignore_result=True)
    worker = on_redis.begin_worker("-A", "hung:app", "-Q", "jobs", "--inline-slots", "3").wait_ready()
    eventually(lambda: waiting(redis_url) == 0, 20)
    worker.process.kill()
    worker.process.wait()
    done = on_redis.run("worker", "sweep", "--wait", "30s", "--json")
    assert (done.code, done.json["returned"]) == (0, 3), done
    # then a plain consumer of Celery's own kind takes them
    with client.connection_for_read() as connection:
        messages = [connection.SimpleQueue("jobs").get(timeout=5) for _ in range(3)]
        assert all(message.headers["task"] == "work" for message in messages)
        for message in messages:
            message.ack()
    client.close()


def test_on_other_transports_it_says_what_there_is_to_do(embedded: Program, amqp_url: str) -> None:
    for env, told in (({}, "embedded broker gives back"), ({"STEM_BROKER_URL": amqp_url}, "RabbitMQ gave back")):
        done = embedded.run("worker", "sweep", "--revoke-store", "memory://", env=env)
        assert done.code == 0, done
        assert told in done.out
        told_json = embedded.run("worker", "sweep", "--json", "--revoke-store", "memory://", env=env)
        assert told in told_json.json["note"] and told_json.json["leased"] == 0
