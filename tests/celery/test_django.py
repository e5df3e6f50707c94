"""A Django project with django-celery-results and django-celery-beat, as they come from the registry, and the line (G1)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.testing.gates import Gate
from tests.celery.conftest import ROOT, Shop
from tests.waiting import eventually

APP = "tests.celery.bazaar.celery:app"
#: Carries out code line by line in the project, and answers with the value of ``said``.
SHELL = """
import json, sys
import django
django.setup()
from tests.celery.bazaar.celery import app
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_celery_results.models import TaskResult
for line in sys.stdin:
    found = {**globals()}
    exec(json.loads(line), found)
    print(json.dumps(found["said"], default=str), flush=True)
"""


class Project:
    """The project with a database of its own, and a shell in it."""

    def __init__(self, shop: Shop, folder: Path) -> None:
        self.shop, self.folder, self.database = shop, folder, folder / "bazaar.sqlite3"
        self.variables = {
            "DJANGO_SETTINGS_MODULE": "tests.celery.bazaar.settings",
            "BAZAAR_DATABASE": str(self.database),
        }
        self.environment = {**shop.environment, **self.variables, "STEM_HEARTBEAT_INTERVAL": "1s"}
        self.run("-m", "django", "migrate", "--verbosity", "0")
        self._shell = subprocess.Popen(
            [sys.executable, "-c", SHELL],
            env=self.environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *command: str, codes: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(
            [sys.executable, *command], env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode in codes, (done.returncode, done.stdout, done.stderr)
        return done.stdout

    def ask(self, code: str) -> Any:
        """The value of ``said`` after this code."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(json.dumps(code) + "\n")
        self._shell.stdin.flush()
        return json.loads(self._shell.stdout.readline())

    def send(self, gate: Gate, **options: Any) -> str:
        return str(self.ask(f"said = app.send_task('bazaar.works', [{gate.path!r}], **{options!r}).id"))

    def row(self, task_id: str) -> Any:
        """What django-celery-results has of the task, as an administrator sees it."""
        rows = self.ask(f"said = list(TaskResult.objects.filter(task_id={task_id!r}).values('status', 'result'))")
        return rows[0] if rows else {"status": "PENDING"}

    def ends(self, task_id: str, state: str) -> str:
        """The task's result, once that is its state."""
        eventually(lambda: self.row(task_id)["status"] == state, 60, lambda: str(self.row(task_id)), interval=0.1)
        return str(self.row(task_id)["result"])

    def of_the_schedule(self) -> list[str]:
        """The states of the tasks that the schedule has sent, as far as they are recorded."""
        return list(
            self.ask("said = list(TaskResult.objects.filter(periodic_task_name='p').values_list('status', flat=True))")
        )

    def sent_by_the_schedule(self) -> int:
        log = self.folder / "beat.log"
        return log.read_text().count("Sending due task p ") if log.exists() else 0

    def stem(self, *command: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
        told = self.run("-m", "celery", "-A", APP, "stem", *command, "--json", codes=codes)
        answer: dict[str, Any] = json.loads(told)
        return answer

    @contextmanager
    def beat(self) -> Iterator[None]:
        """The project's scheduler, which reads its schedule from the database."""
        with (self.folder / "beat.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", APP, "beat", "--max-interval", "1",
                 "--pidfile", str(self.folder / "beat.pid"), "-l", "info"],
                env=self.environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)

    def close(self) -> None:
        self._shell.communicate("")


@pytest.fixture
def project(shop: Shop, tmp_path: Path) -> Iterator[Project]:
    made = Project(shop, tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(300)
def test_g1_what_is_revoked_in_a_django_project_stays_so_and_its_database_has_the_results(
    project: Project, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    shop = project.shop
    worker = shop.start("-c", "2", app=APP, **project.variables)
    done, running, waiting = (Gate(tmp_path / name) for name in ("done", "running", "waiting"))
    done.open()
    waiting.open()
    assert json.loads(project.ends(project.send(done), "SUCCESS")) == "worked"
    # a stop at a checkpoint is a result like any other
    task = project.send(running)
    running.wait_reached()
    told = project.stem("worker", "revoke", "-t", task, "--terminate", "--reason", "INC-42", "--yes")
    assert [one["task_id"] for one in told["stored"]] == [task]
    assert "INC-42" in project.ends(task, "REVOKED")
    # on RabbitMQ no other place than the project's own database can hold revocations
    if "amqp" in request.node.callspec.id:
        (check,) = [one for one in project.stem("health")["checks"] if one["component"] == "revoke_store"]
        assert "bazaar.sqlite3" in check["message"], check
    # a revoke outlives the worker, by Celery's own means as well
    project.ask("said = app.control.revoke('native')")
    project.stem("worker", "revoke", "-t", "early", "--reason", "INC-43", "--yes")
    worker.terminate()
    shop.start("-c", "2", app=APP, **project.variables)
    for task, why in (("early", "INC-43"), ("native", "")):
        assert why in project.ends(project.send(waiting, task_id=task), "REVOKED")
    assert waiting.reached() is None


@pytest.mark.timeout(300)
def test_a_schedule_of_django_celery_beat_fires_and_what_it_has_sent_is_revoked_by_name(
    project: Project, tmp_path: Path
) -> None:
    shop, gate = project.shop, Gate(tmp_path / "gate")
    gate.open()
    project.ask(
        "every, _ = IntervalSchedule.objects.get_or_create(every=1, period='seconds')\n"
        f"said = PeriodicTask.objects.create(interval=every, name='p', task='bazaar.works', args=json.dumps([{gate.path!r}])).id"
    )
    with project.beat():  # while no worker is up
        eventually(lambda: project.sent_by_the_schedule() >= 2, 60, interval=0.2)
    backlog = project.sent_by_the_schedule()
    told = project.stem("worker", "revoke", "--name", "bazaar.works", "--reason", "bad deploy", "--yes", codes=(69,))
    assert told.get("durable") is not False, told
    shop.start("-c", "2", app=APP, **project.variables)
    eventually(lambda: project.of_the_schedule() == ["REVOKED"] * backlog, 60, interval=0.2)
    assert gate.reached() is None
    # what the schedule sends after that runs
    with project.beat():
        eventually(lambda: "SUCCESS" in project.of_the_schedule(), 60, interval=0.2)
    assert project.of_the_schedule().count("REVOKED") == backlog
