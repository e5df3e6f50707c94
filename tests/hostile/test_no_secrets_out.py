"""Passwords, keys and secret arguments are planted everywhere, and looked for in everything that anybody can read."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import kombu.pools
import psycopg2
import pytest
from celery import Celery

from stem_kombu.backends.registry import open_backend, open_roster
from stem_kombu.errors import StemError
from stem_kombu.settings import Settings
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.testing.gates import Gate
from stem_kombu.testing.ports import free_port
from stem_kombu.transports.connections import connect, open_connection
from tests.cli.program import Done, Program
from tests.waiting import eventually

#: Each with signs that a URL ends at, so that it stands there in another form than it is sent in.
PASSWORDS = {name: f"c4nary-{name}/@:%#?x" for name in ("redis", "amqp", "postgres", "results")}
ARGUMENTS = {
    "password": "c4nary-keyword",
    "options": {"api_token": "c4nary-nested", "list": [{"secret": "c4nary-deep"}]},
}
POSITION = "c4nary-position"
KEY = "c4naryKeyThatIsNoBase64!"
#: A key that can be used: 32 bytes, of which the base64 is nothing but canaries.
GOOD_KEY = "c4nary" * 7 + "c="


class Ledger:
    """Everything that was said, by whom."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def take(self, who: str, *texts: object) -> None:
        self.said += [(who, str(text)) for text in texts]

    def run(self, program: Program, *arguments: str, **options: Any) -> Done:
        done = program.run(*arguments, **options)
        self.take(f"stem {' '.join(arguments)}", done.out, done.err)
        return done

    def check(self, *, but: str = "") -> None:
        """Nothing of it has a canary in it, apart from ``but``."""
        for who, text in self.said:
            told = text.replace(but, "") if but else text
            at = told.find("c4nary")
            assert at < 0, f"{who}: …{told[max(0, at - 300) : at + 100]}…"


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def with_password(url: str, kind: str, user: str = "") -> str:
    scheme, address = url.partition("://")[0], url.rpartition("@")[2]
    return f"{scheme}://{user}:{quote(PASSWORDS[kind], safe='')}@{address}"


@pytest.fixture(params=["redis", "amqp"])
def places(request: pytest.FixtureRequest) -> dict[str, str]:
    """Servers that ask for the planted passwords."""
    start_redis = request.getfixturevalue("start_redis")
    results = with_password(start_redis(password=PASSWORDS["results"]).new_database(), "results")
    postgres_url = request.getfixturevalue("postgres_url")
    session = psycopg2.connect(postgres_url)
    session.autocommit = True
    with session.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS shop")
        cursor.execute("CREATE ROLE shop LOGIN SUPERUSER PASSWORD %s", (PASSWORDS["postgres"],))
    session.close()
    store = with_password(postgres_url, "postgres", "shop")
    if request.param == "redis":
        broker = with_password(start_redis(password=PASSWORDS["redis"]).new_database(), "redis")
    else:
        url, rabbit = request.getfixturevalue("amqp_url"), request.getfixturevalue("rabbitmq_server")
        vhost, anything = url.rpartition("/")[2], ", ".join(['<<".*">>'] * 3)
        rabbit.evaluate('catch rabbit_auth_backend_internal:delete_user(<<"shop">>, <<"tests">>)')
        rabbit.evaluate(f'rabbit_auth_backend_internal:add_user(<<"shop">>, <<"{PASSWORDS["amqp"]}">>, <<"tests">>)')
        rabbit.evaluate(
            f'rabbit_auth_backend_internal:set_permissions(<<"shop">>, <<"{vhost}">>, {anything}, <<"tests">>)'
        )
        broker = with_password(url, "amqp", "shop")
    return {
        "STEM_BROKER_URL": broker,
        "STEM_RESULT_BACKEND_URL": store,
        "STEM_REVOKE_STORE_URL": store,
        "STEM_CELERY_RESULT_URL": results,
        "STEM_SIGNING_KEYS": f"k1:{GOOD_KEY}",
        "STEM_SIGNING_ACTIVE_KEY": "k1",
        "STEM_SIGNING_TASKS": "sign",
    }


@pytest.fixture
def program(places: dict[str, str], tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path, places)
    yield program
    program.close()


@pytest.fixture
def heard(places: dict[str, str]) -> Iterator[Events]:
    monitor = Events(places["STEM_BROKER_URL"])
    yield monitor
    monitor.close()


def test_nothing_that_a_fleet_says_holds_a_secret(
    program: Program, heard: Events, ledger: Ledger, tmp_path: Path
) -> None:
    worker = program.start_worker(
        "--name", "alpha@here", "-c", "1", "--log-level", "debug", "--heartbeat-interval", "1s"
    )
    gate = Gate(tmp_path / "gate")
    secrets = {**ARGUMENTS, "gate": gate.path}
    # through Python, as on a command line anybody could read them
    task = heard.app.send_task("shop.holds", (POSITION,), secrets, queue="default").id
    gate.wait_reached()
    for arguments in (("ping",), ("stats",), ("status",), ("revoke", "-t", "t1"), ("inspect", "--revoked")):
        for form in ((), ("--json",)):
            ledger.run(program, "worker", *arguments, *form)
    ledger.run(program, "--debug", "health", "--json")
    ledger.run(program, "health")
    ledger.run(program, "--debug", "keys", "check")
    ledger.take("process titles", *titles(program))
    inspect = heard.app.control.inspect(timeout=10, limit=1)
    for ask in ("ping", "active", "stats", "conf", "report", "registered", "active_queues", "reserved"):
        ledger.take(f"celery inspect {ask}", eventually(getattr(inspect, ask)))
    roster = open_roster(program.variables["STEM_RESULT_BACKEND_URL"])
    ledger.take("the roster", roster.view("stem"))
    roster.close()
    gate.open()
    assert program.ended(task)["state"] == "failed"
    ledger.run(program, "task", "show", task, "--json")
    eventually(lambda: any(event["type"] == "task-failed" for event in heard.events), 30)
    ledger.take("Celery's events", json.dumps(heard.events, default=str))
    worker.terminate()
    ledger.take("the worker", worker.out, worker.err)
    # then: a position has no name that says that it is secret; inspect and events show it, for who may ask
    positions = [(who, text) for who, text in ledger.said if POSITION in text]
    shown_by = {who.split(" --")[0] for who, _ in positions}
    assert shown_by <= {"stem worker inspect", "celery inspect active", "Celery's events"}, shown_by
    ledger.check(but=POSITION)


def titles(program: Program) -> list[str]:
    """The command lines of the program's processes and of their children."""
    pids = [worker.process.pid for worker in program.workers]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in pids or int(entry.name) in pids:
                    found += [(entry / name).read_text(errors="replace") for name in ("cmdline", "comm")]
            except OSError:
                continue  # it ended meanwhile
    assert len(found) > len(pids)
    return found


class Events:
    """A monitor of Celery's that writes down what it hears."""

    def __init__(self, broker: str) -> None:
        self.app = Celery("monitor", broker=broker, set_as_current=False)
        self.events: list[dict[str, Any]] = []
        self._connection = self.app.connection_for_read()
        self._receiver = self.app.events.Receiver(self._connection, handlers={"*": self.events.append})
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        self._receiver.capture(limit=None, timeout=None, wakeup=False)

    def close(self) -> None:
        self._receiver.should_stop = True
        self._thread.join(10)
        self._connection.release()
        self.app.close()
        kombu.pools.reset()  # see tests/celery/conftest.py


# -- errors --------------------------------------------------------------------------------------------------------------

#: Reserved signs, as they come out of a password manager: not encoded.
PLAIN = "c4nary/rest@of:it"


def bad_urls(places: dict[str, str]) -> list[tuple[str, str]]:
    """Variables with URLs that can't work, each with a secret in it."""
    closed, encoded = free_port(), quote(PASSWORDS["redis"], safe="")
    found = []
    for name, schemes in (
        ("STEM_BROKER_URL", ("redis", "rediss", "amqp", "amqps", "sentinel", "sqs", "nonsense")),
        ("STEM_RESULT_BACKEND_URL", ("redis", "rediss", "postgresql", "redis+sentinel", "db+mysql")),
        ("STEM_REVOKE_STORE_URL", ("redis", "postgresql", "file", "sqlite")),
        ("STEM_CELERY_RESULT_URL", ("redis", "amqp")),
    ):
        for scheme in schemes:
            for secret in (encoded, PLAIN, "c4nary;x", "c4nary#x", "c4nary?x=1", "c4nary[x"):
                found.append((name, f"{scheme}://user:{secret}@127.0.0.1:{closed}/0"))
            found.append((name, f"{scheme}://us@er:c4nary@127.0.0.1:port/0"))
            found.append((name, f"{scheme}://127.0.0.1:{closed}/0?password=c4nary&sslpassword=c4nary"))
    found.append(("STEM_RESULT_BACKEND_URL", "host=127.0.0.1 password=c4nary"))
    found.append(("STEM_REVOKE_STORE_URL", "host=127.0.0.1 password='c4nary x'"))
    return found


def test_no_error_of_the_library_and_nothing_it_came_from_holds_a_password(ledger: Ledger) -> None:
    openers = {
        "STEM_BROKER_URL": lambda url: connect(open_connection(url, name="STEM_BROKER_URL"), 0.5).release(),
        "STEM_RESULT_BACKEND_URL": lambda url: open_backend(url, name="STEM_RESULT_BACKEND_URL").ping(),
        "STEM_REVOKE_STORE_URL": lambda url: open_revoke_store(url, name="STEM_REVOKE_STORE_URL").ping(),
    }
    failures = 0
    for name, url in bad_urls({}):
        opener = openers.get(name)
        if opener is None or (name, url.partition(":")[0]) in {("STEM_REVOKE_STORE_URL", "file")}:
            continue
        try:
            opener(url)
        except StemError as error:
            failures += 1
            ledger.take(f"{name} {failures}", error, error.hint, repr(error))
            # An application logs the whole chain; its own source lines are not ours to hide.
            chain = "".join(traceback.format_exception(error, limit=0))
            ledger.take(f"{name} {failures}, the chain", chain)
    assert failures > 80
    ledger.check()


def test_no_error_of_a_command_holds_a_secret_also_with_debug(tmp_path: Path, ledger: Ledger) -> None:
    cases = [
        (("worker", "ping"), {"STEM_BROKER_URL": f"redis://:{PLAIN}@127.0.0.1:1/0"}),
        (("worker", "revoke", "-t", "t"), {"STEM_REVOKE_STORE_URL": "postgresql://u:c4nary@127.0.0.1:1/d"}),
        (("health", "--json"), {"STEM_BROKER_URL": f"amqp://u:{quote(PLAIN, safe='')}@127.0.0.1:1//"}),
        (("worker", "ping"), {"STEM_SIGNING_KEYS": f"k1:{KEY}"}),
        (("worker", "ping"), {"STEM_SIGNING_KEYS": KEY}),
        (("health", "--json"), {"STEM_SIGNING_KEYS": f"k1:{KEY}", "STEM_SIGNING_ACTIVE_KEY": "k1"}),
        (("health",), {"STEM_SIGNING_PRIVATE_KEYS": f"k1:{KEY}", "STEM_SIGNING_ALGORITHM": "ed25519"}),
    ]
    for arguments, variables in cases:
        program = Program(tmp_path, {"STEM_BROKER_URL": f"sqlite://{tmp_path}/b.db", **variables})
        done = ledger.run(program, "--debug", *arguments)
        assert done.code != 0, done
    ledger.check()


def test_a_password_in_a_flag_is_warned_of_and_not_repeated(tmp_path: Path, ledger: Ledger) -> None:
    program = Program(tmp_path, {"STEM_BROKER_URL": f"sqlite://{tmp_path}/b.db"})
    done = ledger.run(program, "--debug", "worker", "ping", "--broker", "redis://:c4nary@127.0.0.1:1/0")
    assert "warning: --broker has a password in it" in done.err
    ledger.said = [(who.partition(" --broker")[0], text) for who, text in ledger.said]
    ledger.check()


def test_keys_in_a_flag_are_warned_of_and_not_repeated(tmp_path: Path, ledger: Ledger) -> None:
    program = Program(tmp_path, {"STEM_BROKER_URL": f"sqlite://{tmp_path}/b.db"})
    done = ledger.run(
        program, "--debug", "worker", "ping", "--signing-keys", f"k1:{GOOD_KEY}", "--signing-active-key", "k1"
    )
    assert "warning: --signing-keys has secrets in it" in done.err
    file = tmp_path / "keys"
    file.write_text(f"k1:{GOOD_KEY}")
    done = ledger.run(program, "worker", "ping", "--signing-keys", f"@{file}", "--signing-active-key", "k1")
    assert "warning: --signing-keys" not in done.err
    ledger.said = [(who.partition(" --signing")[0], text) for who, text in ledger.said]
    ledger.check()


def test_settings_show_no_password_to_who_prints_them(ledger: Ledger) -> None:
    for name, url in bad_urls({}):
        ledger.take(name, repr(Settings.from_env({name: url})))
    ledger.check()
