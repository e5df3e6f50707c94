"""What SQLAlchemy's databases, the filesystem and SQS refuse is told with the next step, in a limited time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.errors import BrokerRefused, BrokerUnavailable
from stem_kombu.task import TaskMessage
from stem_kombu.testing.ports import free_port
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.producer import TaskProducer
from stem_kombu.transports.registry import open_transport
from tests.cli.program import Program
from tests.servers.postgres import session


def refused_by_all(url: str, options: dict[str, Any] | None = None) -> list[BrokerUnavailable]:
    """What a sender and a worker are told."""
    found = []
    producer = TaskProducer(lambda: open_connection(url, options=options or {}))
    with pytest.raises(BrokerUnavailable) as told:
        producer.send(TaskMessage("t", "tasks.any"))
    producer.close()
    found.append(told.value)
    with pytest.raises(BrokerUnavailable) as told:
        open_transport(open_connection(url, options=options or {})).consumer(["default"], clock=SYSTEM)
    return [*found, told.value]


@pytest.mark.parametrize(
    ("user", "rest", "final", "what", "hint"),
    [
        ("stem:wrong", None, True, "password authentication failed", "check user and password"),
        (None, "/no_such_database", True, 'database "no_such_database" does not exist', "create the database"),
        ("weak:weak", None, True, "permission denied for schema public", "grant this user CREATE on the schema"),
        (None, "{database}?pool_size=2", True, 'invalid connection option "pool_size"', "is a transport option"),
    ],
)
def test_what_postgres_refuses_is_told_with_the_next_step(
    postgres_url: str, user: str | None, rest: str | None, final: bool, what: str, hint: str
) -> None:
    pytest.importorskip("sqlalchemy")
    with session(postgres_url) as cursor:
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM public")
        cursor.execute("DROP ROLE IF EXISTS weak")
        cursor.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
    given = urlsplit(postgres_url)
    host, path = given.netloc.rpartition("@")[2], (rest or "{database}").format(database=given.path)
    login = user or given.netloc.rpartition("@")[0]
    for error in refused_by_all(f"sqla+postgresql+psycopg2://{login}@{host}{path}"):
        assert what in str(error) and hint in str(error.hint), error
        assert isinstance(error, BrokerRefused) == final
        assert "sqlalche.me" not in str(error) and "\n" not in str(error)


def test_where_nothing_listens_the_next_step_is_told(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    for error in refused_by_all(f"sqla+postgresql+psycopg2://stem@127.0.0.1:{free_port()}/shop"):
        assert "connection refused" in str(error) and "check that the broker runs at that host and port" in str(
            error.hint
        )
        assert not isinstance(error, BrokerRefused)


def test_what_sqlite_and_the_filesystem_refuse_is_told_with_the_next_step(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    junk = tmp_path / "junk.db"
    junk.write_text("not a database" * 100)
    folders = {"data_folder_in": str(tmp_path / "none"), "data_folder_out": str(tmp_path / "none")}
    for url, options, what, hint in (
        (
            f"sqla+sqlite:///{tmp_path / 'none' / 'k.db'}",
            {},
            "unable to open database file",
            "make the folder of the file",
        ),
        (f"sqla+sqlite:///{junk}", {}, "file is not a database", "give another path"),
        (
            "filesystem://",
            {**folders, "control_folder": str(tmp_path / "c")},
            "No such file",
            "make the folder, or correct",
        ),
    ):
        (error, other) = refused_by_all(url, options)
        assert what in str(error) and hint in str(error.hint), error
        assert what in str(other) and hint in str(other.hint), other


def test_an_sqs_that_does_not_answer_is_told_with_the_next_step() -> None:
    pytest.importorskip("boto3")
    pytest.importorskip("pycurl")
    for error in refused_by_all(
        f"sqs://user:secret@127.0.0.1:{free_port()}", {"region": "us-east-1", "is_secure": False}
    ):
        assert "Could not connect to the endpoint" in str(error)
        assert "check host and port in the broker URL" in str(error.hint)


@pytest.mark.parametrize(
    ("url", "options", "what"),
    [
        ("filesystem://", {"data_folder_in": 7}, "data_folder_in 7 is no path of a folder"),
        ("filesystem://", {"control_folder": ""}, "control_folder '' is no path of a folder"),
        ("filesystem://", {"visibility_timeout": "soon"}, "visibility_timeout 'soon' is no number of seconds above 0"),
        ("sqla+sqlite:////nowhere.db", {"pool_sise": 2}, "'pool_sise'"),
    ],
)
def test_an_option_that_means_nothing_is_refused_by_each_command_with_its_name(
    tmp_path: Path, url: str, options: dict[str, object], what: str
) -> None:
    pytest.importorskip("sqlalchemy")
    stem = Program(
        tmp_path,
        {
            "STEM_BROKER_URL": url,
            "STEM_BROKER_TRANSPORT_OPTIONS": json.dumps(options),
            "STEM_RESULT_BACKEND_URL": f"sqlite://{tmp_path / 'state.db'}",
            "STEM_REVOKE_STORE_URL": f"sqlite://{tmp_path / 'state.db'}",
        },
    )
    sent, health = stem.run("task", "send", "shop.add"), stem.run("health")
    assert (sent.code, health.code) == (2, 2), (sent, health)
    assert what in sent.err and what in health.out
    worker = stem.begin_worker("--name", "alpha", "-c", "1")
    assert worker.wait_code() == 2
    assert what in worker.err and "Traceback" not in worker.err
    stem.close()


def test_a_worker_does_not_wait_for_what_postgres_refuses_for_good(tmp_path: Path, postgres_url: str) -> None:
    pytest.importorskip("sqlalchemy")
    url = re.sub("//[^@]*@", "//stem:wrong@", postgres_url).replace("postgresql", "sqla+postgresql+psycopg2")
    stem = Program(tmp_path, {"STEM_BROKER_URL": url, "STEM_REVOKE_STORE_URL": f"sqlite://{tmp_path / 'state.db'}"})
    worker = stem.begin_worker("--name", "alpha", "-c", "1")
    assert worker.wait_code() == 74
    assert "password authentication failed" in worker.err and "check user and password" in worker.err
    assert "could not be consumed within" not in worker.err, "it waited"
    stem.close()
