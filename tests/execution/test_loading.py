"""How the application comes into children: preloaded where that is safe, from whatever module defines a task."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.execution.programs import run_program

COLLECT = """
    import json, sys, logging
    from stem_kombu.execution.base import Job
    from stem_kombu.execution.child.setup import ChildOptions, ChildSetup
    from stem_kombu.execution.pool.pool import IsolatePool
    from stem_kombu.task import TaskMessage
    from stem_kombu.testing.executors import Recording

    def collect(app, *names, method="forkserver", preload="auto", slots=1, log=None):
        logging.basicConfig(format="%(levelname)s %(message)s")
        observer = Recording()
        options = ChildOptions(start_method=method, preload=preload, log=log)
        pool = IsolatePool(slots, ChildSetup.of(app, options), observer, start_method=method)
        pool.start()
        try:
            for token, name in enumerate(names, 1):
                job = Job(token, app.registry.get(name), TaskMessage(f"t{token}", name))
                pool.submit(job)
                outcome = observer.outcome(job, timeout=60)
                print(json.dumps(outcome.result if outcome.error is None else outcome.error.message), flush=True)
        finally:
            pool.stop(0.0)
"""

PLACE = """
    import os, socket, threading
    from stem_kombu import Stem
    app = Stem("place")
    imported_in = os.getpid()
    {left}

    @app.task("place", isolate=True)
    def place(ctx):
        return [os.getpid() == imported_in, sorted(t.name for t in threading.enumerate() if t.name.startswith("kept"))]
"""
THREAD = "threading.Thread(target=threading.Event().wait, name='kept-busy', daemon=True).start()"
SOCKET = "listener = socket.create_server(('127.0.0.1', 0)); kept = socket.create_connection(listener.getsockname())"


def files(folder: Path, **sources: str) -> None:
    (folder / "collecting.py").write_text(textwrap.dedent(COLLECT))
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))


@pytest.mark.parametrize(
    ("left", "preload", "own_import", "said"),
    [
        ("", "auto", False, ""),
        (THREAD, "auto", True, "threads (kept-busy)"),
        (SOCKET, "auto", True, "open sockets (a socket to 127.0.0.1:"),
        (f"{THREAD}\n    {SOCKET}", "auto", True, "threads (kept-busy) and open sockets"),
        (THREAD, "always", False, "the import of --preload always opens threads (kept-busy)"),
        ("", "never", True, ""),
        ("", "json", True, ""),
        ("", "place", False, ""),
    ],
)
def test_the_application_is_preloaded_unless_that_leaves_threads_or_sockets_behind(
    tmp_path: Path, left: str, preload: str, own_import: bool, said: str
) -> None:
    files(tmp_path, place=PLACE.format(left=left))
    done = run_program(
        f"from collecting import collect\nfrom place import app\ncollect(app, 'place', preload={preload!r})\n", tmp_path
    )
    threads = '["kept-busy"]' if left.startswith("threading") and own_import else "[]"
    assert done.stdout == f"[{str(own_import).lower()}, {threads}]\n", done.stderr
    assert (said in done.stderr) if said else not done.stderr, done.stderr


def test_a_module_to_preload_that_can_not_be_imported_is_refused_by_its_name(tmp_path: Path) -> None:
    files(tmp_path, place=PLACE.format(left=""))
    done = run_program(
        "from collecting import collect\nfrom place import app\ncollect(app, 'place', preload='no.such')\n", tmp_path
    )
    assert done.returncode == 1
    assert "ConfigurationError: --preload no.such: ModuleNotFoundError" in done.stderr


CORE = """
    from stem_kombu import Stem
    app = Stem("core")
"""
JOBS = """
    from core import app

    @app.task(isolate=True)
    def cpu(ctx):
        return 7
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_a_child_has_the_tasks_of_every_module_that_its_worker_has_imported(tmp_path: Path, method: str) -> None:
    files(tmp_path, core=CORE, jobs=JOBS)
    done = run_program(
        f"import jobs\nfrom core import app\nfrom collecting import collect\ncollect(app, 'jobs.cpu', method={method!r})\n",
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_included_modules_are_imported_by_a_worker_and_its_children(tmp_path: Path) -> None:
    files(tmp_path, core=CORE.replace('Stem("core")', 'Stem("core", include=["jobs"])'), jobs=JOBS)
    done = run_program(
        "from core import app\nfrom collecting import collect\napp.load()\ncollect(app, 'jobs.cpu')\n", tmp_path
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_a_child_that_lacks_a_task_of_its_worker_makes_the_start_fail_with_a_sentence(tmp_path: Path) -> None:
    files(tmp_path, core=CORE)
    done = run_program(
        """
        from core import app
        from collecting import collect
        from stem_kombu.errors import ExecutionError

        def define():
            @app.task("made.late", isolate=True)
            def late(ctx): ...

        if __name__ == "__main__":
            define()
            try:
                collect(app, "made.late")
            except ExecutionError as error:
                print(error)
        """,
        tmp_path,
    )
    assert "isolate tasks that this worker has are not registered in a child: made.late" in done.stdout
    assert "Traceback" not in done.stderr


MAIN = """
    from collecting import collect
    from stem_kombu import Stem

    app = Stem("main")

    @app.task(isolate=True)
    def cpu(ctx):
        return 7

    if __name__ == "__main__":
        collect(app, "__main__.cpu", method={method!r})
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_an_application_in_the_main_module_works(tmp_path: Path, method: str) -> None:
    files(tmp_path)
    done = run_program(MAIN.format(method=method), tmp_path)
    assert (done.stdout, done.stderr) == ("7\n", "")


UNGUARDED = """
    from stem_kombu import Stem, Worker

    app = Stem("main", broker="memory://unguarded")

    @app.task("cpu", isolate=True)
    def cpu(ctx):
        return 7

    print("main")
    Worker(app, concurrency=2).start()
"""


def test_a_program_that_starts_a_worker_as_a_child_imports_it_is_refused_with_one_sentence(tmp_path: Path) -> None:
    done = run_program(UNGUARDED, tmp_path)
    last = "".join(done.stderr.strip().splitlines()[-2:])
    assert "the program starts a worker while it is imported" in last
    assert done.stderr.count("Traceback") == 1, done.stderr  # that of the program itself
    assert done.returncode == 1


def test_an_application_in_an_interactive_session_is_refused_with_a_sentence(tmp_path: Path) -> None:
    files(tmp_path)
    done = subprocess.run(
        [sys.executable, "-"],
        input=textwrap.dedent(MAIN.format(method="forkserver")),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "isolate tasks are defined in an interactive session" in done.stderr


FLAKY = """
    from pathlib import Path
    from stem_kombu import Stem

    app = Stem("flaky")

    @app.on_child_start
    def connect():
        tries = Path(__file__).with_name("tries")
        with tries.open("a") as file:
            file.write("x")
        if len(tries.read_text()) < 4:
            raise ConnectionError("the database is not there yet")

    @app.task("cpu", isolate=True)
    def cpu(ctx):
        return 7
"""


def test_a_child_whose_start_hook_fails_is_replaced_later_and_that_is_said(tmp_path: Path) -> None:
    files(tmp_path, flaky=FLAKY)
    done = run_program("from flaky import app\nfrom collecting import collect\ncollect(app, 'cpu')\n", tmp_path)
    assert done.stdout == "7\n"
    assert done.stderr.count("a start hook failed: ConnectionError: the database is not there yet") == 3


GREEN = """
    import sys, types
    monkey = types.ModuleType("gevent.monkey")
    monkey.is_module_patched = lambda name: True
    sys.modules["gevent.monkey"] = monkey
    from stem_kombu import Stem

    app = Stem("green")

    @app.task("cpu", isolate=True)
    def cpu(ctx): ...
"""


def test_an_application_that_replaces_threads_is_refused_with_a_sentence(tmp_path: Path) -> None:
    files(tmp_path, green=GREEN)
    done = run_program("from green import app\nfrom collecting import collect\ncollect(app, 'cpu')\n", tmp_path)
    assert "the application has gevent replace Python's threads" in done.stderr


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("executable", ["/nowhere/uwsgi", ""])
def test_children_start_under_a_server_that_embeds_python(tmp_path: Path, method: str, executable: str) -> None:
    files(tmp_path, core=CORE, jobs=JOBS)
    done = run_program(
        f"import sys\nsys.executable = {executable!r}\nimport jobs\nfrom core import app\nfrom collecting import collect\n"
        f"collect(app, 'jobs.cpu', method={method!r})\n",
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_without_an_interpreter_children_are_refused_with_a_sentence(tmp_path: Path) -> None:
    files(tmp_path, core=CORE, jobs=JOBS)
    done = run_program(
        "import sys\nsys.executable = '/nowhere/uwsgi'\nsys.prefix = sys.exec_prefix = sys.base_prefix = '/nowhere'\n"
        "import jobs\nfrom core import app\nfrom collecting import collect\ncollect(app, 'jobs.cpu')\n",
        tmp_path,
    )
    assert (
        "ConfigurationError: isolate children are started with a Python interpreter, but sys.executable is"
        in done.stderr
    )


@pytest.mark.parametrize(("kind", "loop"), [("def", False), ("async def", True)])
def test_a_child_loads_asyncio_for_coroutine_tasks_alone_and_before_it_is_forked(
    tmp_path: Path, kind: str, loop: bool
) -> None:
    source = f"""
        import os, sys
        from stem_kombu import Stem
        app = Stem("slim")
        SELDOM = (
            "asyncio", "billiard", "difflib", "email", "hashlib", "hmac", "importlib.metadata", "kombu", "logging.config",
            "secrets", "shutil", "ssl", "stem_kombu.settings", "uuid", "zipfile",
        )

        @app.task("held", isolate=True)
        def held(ctx):
            return [name for name in SELDOM if name in sys.modules]

        @app.task("other", isolate=True)
        {kind} other(ctx):
            return None
    """
    files(tmp_path, slim=source)
    done = run_program("from collecting import collect\nfrom slim import app\ncollect(app, 'held')\n", tmp_path)
    assert done.stdout == ('["asyncio", "ssl"]\n' if loop else "[]\n"), done.stderr


@pytest.mark.parametrize(
    ("hook", "log", "preload", "own"),
    [
        ("", "LogSetup()", "auto", False),
        ("", "LogSetup()", "never", True),
        ("", "LogSetup(config=CONFIG)", "auto", True),
        ("@app.on_setup_logging", "LogSetup()", "auto", True),
    ],
)
def test_a_plain_set_up_of_logging_is_made_once_before_children_are_forked(
    tmp_path: Path, hook: str, log: str, preload: str, own: bool
) -> None:
    source = f"""
        import logging, os
        from stem_kombu import Stem
        app = Stem("logged")

        class Noting(logging.StreamHandler):
            def __init__(self, stream=None):
                super().__init__(stream)
                self.made_in = os.getpid()

        logging.StreamHandler = Noting

        {hook}
        def own(setup):
            logging.getLogger().addHandler(Noting())

        @app.task("made_here", isolate=True)
        def made_here(ctx):
            return [handler.made_in == os.getpid() for handler in logging.getLogger().handlers]
    """
    files(tmp_path, logged=source)
    program = f"""
        from stem_kombu.logs import LogSetup
        from collecting import collect
        from logged import app

        CONFIG = {{
            "version": 1, "handlers": {{"one": {{"()": "logged.Noting"}}}}, "root": {{"handlers": ["one"]}},
        }}
        collect(app, "made_here", log={log}, preload="{preload}")
    """
    done = run_program(textwrap.dedent(program), tmp_path)
    assert done.stdout == f"[{str(own).lower()}]\n", done.stderr
