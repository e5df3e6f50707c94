"""The embedded broker under its scheme, wherever Kombu is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

USE = """
    with Connection("sqlite:///{file}") as connection:
        connection.SimpleQueue("q").put({{"n": 1}})
        message = connection.SimpleQueue("q").get(timeout=10)
        assert message.payload == {{"n": 1}}
        message.ack()
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "first",
    [
        "import stem_kombu; from kombu import Connection",
        "from kombu import Connection; import stem_kombu",
        "import kombu; import stem_kombu; from kombu import Connection",
        "import kombu.transport; import stem_kombu; from kombu import Connection",
        "import stem_kombu.celery; from kombu import Connection",
        "import stem_kombu, kombu.connection; from kombu import Connection",
    ],
)
def test_kombu_knows_the_embedded_broker_once_stem_is_imported(first: str, tmp_path: Path) -> None:
    run(f"{first}\nif True:{USE.format(file=tmp_path / 'broker.db')}")


def test_importing_stem_imports_neither_kombu_nor_a_driver() -> None:
    code = (
        "import sys, stem_kombu; print(sorted(m for m in sys.modules if m.split('.')[0] in {'kombu', 'amqp', 'redis'}))"
    )
    assert run(code) == "[]\n"


def test_another_transport_of_that_name_and_sqlalchemys_keep_theirs() -> None:
    run(
        "import kombu.transport\nkombu.transport.TRANSPORT_ALIASES['sqlite'] = 'mine:Transport'\nimport stem_kombu\n"
        "assert kombu.transport.TRANSPORT_ALIASES['sqlite'] == 'mine:Transport'\n"
        "assert kombu.transport.TRANSPORT_ALIASES['sqla'] == 'kombu.transport.sqlalchemy:Transport'\n"
        "import inspect; assert 'TRANSPORT_ALIASES' in inspect.getsource(kombu.transport)"
    )
    run("import stem_kombu, kombu.transport, inspect; assert 'def resolve' in inspect.getsource(kombu.transport)")


def test_an_application_of_celery_sends_through_the_embedded_broker(tmp_path: Path) -> None:
    run(
        "from celery import Celery\nfrom stem_kombu.celery import install\n"
        f"app = install(Celery('c', broker='sqlite:///{tmp_path / 'broker.db'}'))\n"
        "app.conf.task_ignore_result = True\n"
        "app.send_task('t', queue='jobs')\n"
        "with app.connection_for_read() as connection:\n"
        "    message = connection.SimpleQueue('jobs').get(timeout=10)\n"
        "    assert message.headers['task'] == 't'\n"
        "    message.ack()\n"
    )
