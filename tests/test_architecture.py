"""The walls of the house, read from the imports of every module: who may know whom (docs/architecture.md).

A rule that a module has a good reason to break is widened here, beside the reason; it is not worked around there.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FACADE = "stem_kombu"
PACKAGES = ("stem_kombu", "stem_kombu_cli")
LONGEST_MODULE = 350

#: Words that mean the same in every room. They know the standard library and each other.
ROOT_WORDS = [
    f"stem_kombu.{name}"
    for name in (
        "errors",
        "clock",
        "copies",
        "chance",
        "machine",
        "fields",
        "arguments",
        "celery_words",
        "autoscale",
        "bound",
        "directive",
        "durations",
        "timeouts",
        "redaction",
        "urls",
        "transport_options",
        "sentinel",
        "settings",
        "state_folder",
        "health_page",
        "variables",
        "volatile",
        "version",
        "revocation",
        "row_block",
        "packed_rows",
        "revocation_page",
        "revocation_cache",
        "ladder",
        "revocation_texts",
        "undone",
        "task",
        "handler",
        "context",
        "outcome",
        "task_filter",
        "selector",
        "rule",
        "slots",
        "spelling",
        "measures",
        "publishing",
        "send_retries",
        "hooks",
        "locating",
        "logs",
        "processors",
        "rate",
    )
]
BROKER_LIBRARIES = ("kombu", "amqp", "vine")

#: (who, never imports, because)
WALLS = [
    ("stem_kombu", ("stem_kombu_cli", "click", "rich"), "the library is whole without a terminal"),
    ("stem_kombu.control", ("stem_kombu.execution",), "they meet in the worker, through WorkerView"),
    ("stem_kombu.execution", ("stem_kombu.control",), "they meet in the worker, through WorkerView"),
    (
        "stem_kombu.control",
        ("stem_kombu.worker", "stem_kombu.agent"),
        "a handler is tested with a small view of its own",
    ),
    (
        "stem_kombu.control",
        (
            *BROKER_LIBRARIES,
            "redis",
            *(
                f"stem_kombu.transports.{kind}"
                for kind in ("generic", "amqp", "redis", "sqlite", "sql", "filesystem", "leased", "reach", "errors")
            ),
        ),
        "it speaks through a control link, whatever that is",
    ),
    *(
        (
            room,
            (
                *BROKER_LIBRARIES,
                "billiard",
                *(
                    f"stem_kombu.{other}"
                    for other in ("transports", "messages", "control", "execution", "worker", "agent")
                ),
            ),
            "a store is a store to an operator's command too",
        )
        for room in ("stem_kombu.stores", "stem_kombu.backends", "stem_kombu.drivers")
    ),
    ("stem_kombu.stores", ("stem_kombu.backends",), "each is whole without the other"),
    ("stem_kombu.backends", ("stem_kombu.stores",), "each is whole without the other"),
    (
        "stem_kombu.signing",
        tuple(
            f"stem_kombu.{room}"
            for room in (
                "app",
                "backends",
                "transports",
                "messages",
                "control",
                "drivers",
                "execution",
                "stores",
                "worker",
            )
        ),
        "keys and signatures know bytes, not who says them",
    ),
    (
        "stem_kombu.celery_monitors",
        ("stem_kombu.execution", "stem_kombu.worker", "stem_kombu.stores", "stem_kombu.backends"),
        "monitors see what WorkerView shows",
    ),
    (
        "stem_kombu.messages",
        tuple(f"stem_kombu.{other}" for other in ("control", "execution", "worker", "stores", "backends", "app")),
        "a message is read and written without a broker",
    ),
    (
        "stem_kombu.transports",
        tuple(f"stem_kombu.{other}" for other in ("control", "execution", "worker", "stores", "backends", "app")),
        "imports go down",
    ),
    (
        "stem_kombu.execution",
        (
            *BROKER_LIBRARIES,
            *(
                f"stem_kombu.{other}"
                for other in ("transports", "messages", "stores", "backends", "drivers", "worker", "agent")
            ),
        ),
        "an executor speaks to its pipe and to its caller",
    ),
]

#: (library, the only rooms and modules that know it)
KNOWN_ONLY_TO = [
    (
        BROKER_LIBRARIES,
        (
            "stem_kombu.transports",
            "stem_kombu.messages",
            "stem_kombu.agent",
            "stem_kombu.worker",
            "stem_kombu.celery_monitors.service",
            "stem_kombu.celery_monitors.plain_workers",
            "stem_kombu.celery",
            # For annotations: a Kombu connection, a pool.
            "stem_kombu.app",
            "stem_kombu.keywords",
        ),
    ),
    (("billiard",), ("stem_kombu.execution",)),
    (("celery",), ("stem_kombu.celery",)),
    (("click", "rich"), ("stem_kombu_cli",)),
    (
        ("psycopg2",),
        (
            "stem_kombu.drivers.postgres",
            "stem_kombu.drivers.postgres_session",
            "stem_kombu.stores.postgres",
            "stem_kombu.backends.postgres",
        ),
    ),
    (
        ("sqlite3",),
        (
            "stem_kombu.drivers",
            "stem_kombu.stores.sqlite",
            "stem_kombu.stores.sqlite_check",
            "stem_kombu.stores.sqlite_pages",
            "stem_kombu.stores.sqlite_records",
            "stem_kombu.backends.sqlite",
            "stem_kombu.backends.failed_sqlite",
            "stem_kombu.transports.sqlite",
            "stem_kombu.transports.store.sqlite",
        ),
    ),
    # Broker: leases and the sweep of bindings work beside Kombu, on documented keys, over a client of our own.
    (
        ("redis",),
        (
            "stem_kombu.drivers.redis",
            "stem_kombu.drivers.redis_conditions",
            "stem_kombu.stores.redis",
            "stem_kombu.backends.redis",
            "stem_kombu.transports",
        ),
    ),
    (("sqlalchemy",), ("stem_kombu.transports.sql", "stem_kombu.after_commit")),
    (("cryptography",), ("stem_kombu.signing.algorithms",)),
    (("prometheus_client",), ("stem_kombu.metrics", "stem_kombu.telemetry")),
    (("opentelemetry",), ("stem_kombu.telemetry",)),
    (("textual",), ("stem_kombu_cli.top",)),
    (("stem_kombu.testing",), ("stem_kombu.testing",)),
    (("stem_kombu.celery",), ("stem_kombu.celery", "stem_kombu_cli.celery")),
    # Nothing is unpickled from a broker or a store (G17); frames, and orders to fork, go between a worker and its own processes.
    (
        ("pickle", "marshal", "shelve", "dill", "cloudpickle"),
        ("stem_kombu.execution.frames", "stem_kombu.execution.pool.fork_order"),
    ),
]

#: Readers of the environment beside stem_kombu.settings, and why.
READS_ENVIRONMENT: dict[str, str] = {
    "stem_kombu.environment": "all of it, of which it knows no variable",
    "stem_kombu_cli.stem_health": "a probe can't afford to load the settings",
}
#: Readers of time beside stem_kombu.clock, and why.
READS_TIME: dict[str, str] = {"stem_kombu_cli.stem_health": "nor the clock, with what that loads"}
#: Rooms that decide about tasks: the simulation owns their time, chance, threads and processes.
SIMULATED = tuple(f"stem_kombu.{room}" for room in ("agent", "worker", "control", "execution", "concurrency"))
#: What draws, beside stem_kombu.chance, and why.
DRAWS: dict[str, str] = {"stem_kombu_cli.commands.keys_generate": "a key comes from the system and from nothing else"}
#: Who knows threads, and who asks the system about processes, in those rooms beside concurrency.threads and machine, and why.
KNOWS_THREADS: dict[str, str] = {
    "stem_kombu.concurrency.threads": "here they come from",
    "stem_kombu.execution.child.life": "the end of a real process: its threads are waited for as Python does",
    "stem_kombu.execution.signals": "a signal's mask is of a real thread",
    "stem_kombu.execution.pool.fork_process": "it is a process of its own, which looks at its real threads",
    "stem_kombu.execution.pool.semaphore_tracker": "billiard's state is of the real process",
}
KNOWS_PROCESSES: dict[str, str] = {
    "stem_kombu.concurrency.poller": "for connections to brokers, with a way around eventlet",
    "stem_kombu.execution.pool.fork_order": "what it passes on are descriptors of real processes",
    "stem_kombu.execution.pool.fork_process": "it is the process that forks children",
    "stem_kombu.execution.pool.fork_server": "it starts the process that forks children",
}
#: Names that the simulation patches beside its four ports: five observers, the file of starts, what makes child processes, and
#: how short a task is. It may only fall.
MOST_PATCHED = 8

#: Modules longer than LONGEST_MODULE, with the length that they may shrink from and never pass.
LONGER = {
    "stem_kombu.worker.worker": 425,
    # Children that come and go while it runs are the pool's own matter.
    "stem_kombu.execution.pool.pool": 380,
}

#: Lambdas, and how often ``Any`` is named.
MOST_LAMBDAS, MOST_ANY = 59, 541

PROCESS_CALLS = (
    "getpid",
    "kill",
    "killpg",
    "getpgid",
    "getpgrp",
    "getsid",
    "setpgid",
    "pipe",
    "eventfd",
    "_exit",
    "set_blocking",
)
#: Of a constructor, ``self`` not counted.
MOST_PARAMETERS = 8

DRIVER_NAMES = {"amqp", "redis", "sqlite", "memory", "sqs", "sql", "filesystem"}

ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.putenv"}
TIME = {
    *(
        f"time.{name}"
        for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep")
    ),
    *(f"datetime.{name}" for name in ("now", "utcnow", "today")),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    "datetime.date.today",
    "date.today",
}


@dataclass(frozen=True)
class Import:
    """One imported name; ``when`` is ``load``, ``typing`` (for annotations only) or ``call`` (inside a function)."""

    target: str
    line: int
    when: str


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    is_package: bool
    tree: ast.Module

    @cached_property
    def imports(self) -> list[Import]:
        return list(_imports(self))

    def __str__(self) -> str:
        return self.name


def within(name: str, *rooms: str) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


@cache
def modules() -> dict[str, Module]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            found[name] = Module(name, path, is_package, ast.parse(path.read_text(), str(path)))
    return found


def _imports(module: Module) -> Iterator[Import]:
    for node, when in _walk(module.tree, "load"):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, when)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield Import(str(node.args[0].value), node.lineno, when)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.name.split(".")
                parents = parents[: len(parents) - node.level + (1 if module.is_package else 0)]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(inner if inner in modules() else base, node.lineno, when)


def _walk(node: ast.AST, when: str) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        inner = when
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner = "call"
        yield child, when
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.body:
                yield statement, "typing"
                yield from _walk(statement, "typing")
            for statement in child.orelse:
                yield statement, when
                yield from _walk(statement, when)
        else:
            yield from _walk(child, inner)


def breaches(rooms: tuple[str, ...], forbidden: tuple[str, ...], but: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{module.path.relative_to(ROOT)}:{found.line} imports {found.target}"
        for module in modules().values()
        if within(module.name, *rooms) and not within(module.name, *but)
        for found in module.imports
        if within(found.target, *forbidden)
    ]


def mentions(module: Module, names: set[str]) -> list[str]:
    """Where a module reads one of ``names``, as ``module.attribute`` or imported from its module."""
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in names:
            found.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.ImportFrom):
            found += [
                (node.lineno, f"{node.module}.{a.name}") for a in node.names if f"{node.module}.{a.name}" in names
            ]
    return [f"{module.path.relative_to(ROOT)}:{line} {name}" for line, name in found]


def test_the_walls_are_tested_on_something() -> None:
    assert {"stem_kombu.settings", "stem_kombu.execution.child.main", "stem_kombu.transports.names"} <= set(modules())
    seen = {found.target for module in modules().values() for found in module.imports}
    assert {"kombu", "billiard", "redis", "psycopg2", "sqlite3"} <= {target.split(".")[0] for target in seen}


@pytest.mark.parametrize(
    ("room", "forbidden", "reason"), WALLS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_room_never_imports_what_is_behind_its_walls(room: str, forbidden: tuple[str, ...], reason: str) -> None:
    assert breaches((room,), forbidden) == [], reason


@pytest.mark.parametrize(("libraries", "rooms"), KNOWN_ONLY_TO, ids=lambda value: value[0] if value else "nobody")
def test_a_library_is_known_to_few_rooms_only(libraries: tuple[str, ...], rooms: tuple[str, ...]) -> None:
    assert breaches(PACKAGES, libraries, but=rooms) == []


def test_root_words_know_the_standard_library_and_each_other() -> None:
    strange = [
        f"{module.path.relative_to(ROOT)}:{found.line} imports {found.target}"
        for name in ROOT_WORDS
        if (module := modules().get(name)) is not None
        for found in module.imports
        if found.target not in ROOT_WORDS and found.target.split(".")[0] not in sys.stdlib_module_names
    ]
    assert strange == []


def test_a_child_loads_nothing_that_speaks_to_a_broker_or_a_store() -> None:
    loaded, unseen = set(), ["stem_kombu.execution.child.main"]
    while unseen:
        name = unseen.pop()
        if name in loaded:
            continue
        loaded.add(name)
        if name in modules():
            parents = [name.rpartition(".")[0]] if "." in name else []
            unseen += parents + [found.target for found in modules()[name].imports if found.when == "load"]
    rooms = tuple(
        f"stem_kombu.{room}"
        for room in ("transports", "messages", "stores", "backends", "control", "worker", "agent", "drivers")
    )
    assert [
        name for name in sorted(loaded) if within(name, *rooms, *BROKER_LIBRARIES, "redis", "psycopg2", "sqlite3")
    ] == []


def test_only_settings_reads_the_environment() -> None:
    allowed = {"stem_kombu.settings", *READS_ENVIRONMENT}
    assert [
        hit for module in modules().values() if module.name not in allowed for hit in mentions(module, ENVIRONMENT)
    ] == []


def test_only_the_clock_reads_time() -> None:
    allowed = {"stem_kombu.clock", *READS_TIME}
    assert [hit for module in modules().values() if module.name not in allowed for hit in mentions(module, TIME)] == []


def test_only_chance_draws() -> None:
    found = [
        f"{module.path.relative_to(ROOT)}:{one.line} imports {one.target}"
        for module in modules().values()
        if not within(module.name, "stem_kombu.testing", "stem_kombu.chance", *DRAWS)
        for one in module.imports
        if one.target in {"random", "secrets"}
    ]
    drawing = {"uuid.uuid4", "uuid.uuid1", "os.urandom"}
    assert (
        found
        + [
            hit
            for module in modules().values()
            if not within(module.name, "stem_kombu.testing", "stem_kombu.chance")
            for hit in mentions(module, drawing)
        ]
        == []
    )


def test_rooms_that_decide_about_tasks_have_their_threads_and_processes_from_one_module_each() -> None:
    processes = {f"os.{name}" for name in PROCESS_CALLS} | {"select.poll", "select.select", "socket.gethostname"}
    found = []
    for module in modules().values():
        if within(module.name, *SIMULATED):
            if module.name not in KNOWS_THREADS:
                found += [f"{module}:{one.line}" for one in module.imports if one.target in {"threading", "queue"}]
            if module.name not in KNOWS_PROCESSES:
                found += mentions(module, processes)
    assert found == []


def test_the_simulation_patches_no_more_names_than_it_did() -> None:
    """What else it needs it has from four modules that stand in for production's, or brings as a plug-in does."""
    tree = ast.parse((ROOT / "tests/simulation/fleet.py").read_text())
    (table,) = (
        node.value for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "PATCHED"
    )
    assert isinstance(table, ast.Dict)
    assert sum(len(names.keys) for names in table.values if isinstance(names, ast.Dict)) <= MOST_PATCHED
    ports = ast.parse((ROOT / "tests/simulation/ports.py").read_text())
    (stands_in,) = (
        node.value for node in ports.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "PORTS"
    )
    assert isinstance(stands_in, ast.Dict) and len(stands_in.keys) <= 4
    setting = [
        f"{path.name}:{node.lineno}"
        for path in (ROOT / "tests/simulation").glob("*.py")
        if path.name != "mutants.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr"
        if path.name not in {"fleet.py", "ports.py", "services.py"}
    ]
    assert setting == []


def test_only_the_revoker_signs_revocations_and_stores_them() -> None:
    """It stands in control, not in the agent, as the client needs it and may not import the agent. What it stores, and all other
    changes, go through the auditor (G32)."""
    signing = {"stem_kombu.signing.proofs.signed_drafts"}
    others = [
        module
        for name, module in modules().items()
        if not within(name, "stem_kombu.control.revoker", "stem_kombu.control.auditor")
        and not within(name, "stem_kombu.stores", "stem_kombu.testing")
    ]
    storing = [
        f"{module.path.relative_to(ROOT)}:{node.lineno}"
        for module in others
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("store.save", "store.change"))
    ]
    assert storing + [hit for module in others for hit in mentions(module, signing)] == []
    revoker = modules()["stem_kombu.control.revoker"]
    assert mentions(revoker, signing) and "auditor.change(" in ast.unparse(revoker.tree)


def test_no_module_imports_itself_by_a_detour() -> None:
    """Imports for annotations count: whoever has to know a word of an upper storey is on the wrong one."""
    below = {
        module.name: sorted(
            {found.target for found in module.imports if found.when != "call" and found.target in modules()}
        )
        for module in modules().values()
        if module.name != FACADE  # it names everyone, and loads each when it is asked for
    }
    below[FACADE] = []
    cycles: list[list[str]] = []
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            cycles.append([*path[path.index(name) :], name])
        elif name not in finished:
            for target in below[name]:
                if target != name:
                    visit(target, [*path, name])
            finished.add(name)

    for name in below:
        visit(name, [])
    assert [" -> ".join(cycle) for cycle in cycles] == []


def test_modules_are_short_enough_to_be_about_one_noun() -> None:
    """Contract suites are exempt: a suite of tests is read by the names of its tests."""
    lengths = {
        module.name: len(module.path.read_text().splitlines())
        for module in modules().values()
        if not re.fullmatch(r"stem_kombu\.testing\.\w+_contract", module.name)
    }
    too_long = {name: lines for name, lines in lengths.items() if lines > LONGER.get(name, LONGEST_MODULE)}
    assert too_long == {}
    assert [name for name in LONGER if lengths.get(name, 0) <= LONGEST_MODULE] == [], (
        "short again: take it off the list"
    )


def drivers_asked_for(module: Module) -> list[str]:
    """Where a module asks Kombu for the name of a driver, or compares with one."""
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in {"driver_type", "driver_name"}:
            found.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Compare):
            said = {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)}
            if said & DRIVER_NAMES and re.search(r"\b(driver|transport|broker)\b", ast.unparse(node)):
                found.append((node.lineno, ast.unparse(node)))
    return [f"{module.path.relative_to(ROOT)}:{line} {text}" for line, text in sorted(found)]


def test_no_module_outside_of_the_transports_asks_for_a_drivers_name() -> None:
    assert [
        hit
        for module in modules().values()
        if not within(module.name, "stem_kombu.transports")
        for hit in drivers_asked_for(module)
    ] == []
    assert drivers_asked_for(modules()["stem_kombu.transports.generic.port"]) != []


def test_names_that_kombu_brings_late_are_imported_from_their_own_modules() -> None:
    """Kombu puts another module in its place while it loads. What asks the first one for such a name, in a second thread,
    ends in an ImportError: ``stem health`` did, which asks all places at once."""
    import kombu

    found = [
        f"{module.path.relative_to(ROOT)}:{node.lineno} {alias.name}"
        for module in modules().values()
        for node, when in _walk(module.tree, "load")
        if isinstance(node, ast.ImportFrom) and node.module == "kombu" and when != "typing"
        for alias in node.names
        if alias.name in kombu.__all__
    ]
    assert found == []


def test_transports_use_private_names_of_drivers_in_their_rooms_only() -> None:
    """So that a release that changes them breaks a room that looks for them first."""
    found = []
    for module in modules().values():
        if within(module.name, "stem_kombu.transports") and not within(
            module.name, "stem_kombu.transports.amqp", "stem_kombu.transports.redis"
        ):
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Attribute) and re.fullmatch(r"_[a-z]\w*", node.attr):
                    owner = ast.unparse(node.value)
                    if owner not in {"self", "cls", "super()"} and node.attr not in {"_make", "_replace"}:
                        found.append(f"{module.path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert found == []


def test_no_exception_outlives_its_reason() -> None:
    for allowed, names in ((READS_ENVIRONMENT, ENVIRONMENT), (READS_TIME, TIME)):
        assert [name for name in allowed if name not in modules() or not mentions(modules()[name], names)] == []
    for allowed, imported in ((DRAWS, {"random", "secrets"}), (KNOWS_THREADS, {"threading", "queue"})):
        assert [name for name in allowed if not imported & {one.target for one in modules()[name].imports}] == []


def loads(statement: str) -> set[str]:
    """The top-level packages that are loaded after a statement, in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{statement}\nprint(*(name for name in sys.modules if '.' not in name))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_no_library_that_only_commands_need() -> None:
    """``stem --help`` and completion answer at once; a broker's and a terminal's libraries cost 0.1 to 0.3 s each."""
    pytest.importorskip("stem_kombu_cli.main")
    statement = (
        "from stem_kombu_cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    heavy = {"kombu", "amqp", "vine", "celery", "billiard", "redis", "psycopg2", "sqlite3", "rich", "asyncio"}
    assert loads(statement) & heavy == set()


def test_the_library_loads_without_a_terminal_and_without_drivers() -> None:
    assert loads("import stem_kombu") & {"click", "rich", "stem_kombu_cli", "psycopg2", "redis", "celery"} == set()


def test_only_their_own_commands_load_what_the_extras_bring() -> None:
    """Every other command would start more slowly: Textual costs a quarter of a second."""
    pytest.importorskip("stem_kombu_cli.main")
    commands = sorted((ROOT / "stem_kombu_cli" / "commands").glob("*.py"))
    names = [f"stem_kombu_cli.commands.{path.stem}" for path in commands if path.stem != "__init__"]
    beside = ["stem_kombu.worker.worker", "stem_kombu_cli.health_server", "stem_kombu.metric_exporters"]
    loaded = loads(f"import {', '.join([*names, *beside])}")
    assert loaded & {"textual", "rich", "prometheus_client", "opentelemetry"} == set()


def test_no_constructor_has_more_parameters_than_can_be_kept_apart() -> None:
    long = [
        f"{module}.{owner.name}"
        for module in modules().values()
        if not within(module.name, "stem_kombu.testing")
        for owner in ast.walk(module.tree)
        if isinstance(owner, ast.ClassDef)
        for made in owner.body
        if isinstance(made, ast.FunctionDef) and made.name in {"__init__", "build"}
        if len(made.args.posonlyargs + made.args.args + made.args.kwonlyargs) - 1 > MOST_PARAMETERS
    ]
    # An application's author writes these by name, and 0.1.0 had 17 of the 18.
    assert long == ["stem_kombu.worker.worker.Worker"]


def test_the_product_has_no_more_lambdas_and_any_than_it_had() -> None:
    """Both limits may only fall. ``object`` does where a value is passed on; a named function or a bound call can be read and
    traced. ``stem_kombu.testing`` is not counted."""
    product = [module for module in modules().values() if not within(module.name, "stem_kombu.testing")]
    lambdas = sum(isinstance(node, ast.Lambda) for module in product for node in ast.walk(module.tree))
    unknown = sum(len(re.findall(r"\bAny\b", module.path.read_text())) for module in product)
    assert (lambdas <= MOST_LAMBDAS, unknown <= MOST_ANY) == (True, True), (lambdas, unknown)
