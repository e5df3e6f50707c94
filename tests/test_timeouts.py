"""One module has every timeout, interval and age of the product, and docs/architecture.md has its table.

The table is written anew by running this test with ``STEM_TEST_GOLDEN=write``, and read in the diff.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tests.test_architecture import LONGEST_MODULE, ROOT, Module, modules, within

HOME = "stem_kombu.timeouts"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- timeouts: begin -->\n", "<!-- timeouts: end -->\n"
#: What an operator sets, and what plug-in authors' tests wait for.
ELSEWHERE = ("stem_kombu.settings", "stem_kombu.testing")
#: Constants that read like durations and stand elsewhere, and why.
LIMIT = "a limit of a value that is read: the product never waits for it"
EXCEPTIONS = {
    "stem_kombu.backends.heartbeat._LONGEST_INTERVAL": LIMIT,
    "stem_kombu.backends.stored._LONGEST_TTL": LIMIT,
    "stem_kombu.control.protocol.codec._LONGEST_SETTLE": LIMIT,
    "stem_kombu.control.protocol.codec._LONGEST_GRACE": LIMIT,
    "stem_kombu.control.server.replay_guard.LONGEST_LIFE": LIMIT,
    "stem_kombu.rule.LONGEST_UNDATED": LIMIT,
    "stem_kombu.stores.batch.LONGEST_LIFE": LIMIT,
    "stem_kombu.health_page.CONSUMES_WITHIN": "stem-health loads health_page and no other module of Stem",
    "stem_kombu.celery.task_rates._AT_ONCE": "tokens a second",
    "stem_kombu.worker.pace._FEW": "starts a minute",
    "stem_kombu.control.client.selection.TOLERANCE": "a share of tasks",
}
#: A name that says duration, the first words of a comment that do, and any words of one about a number with a point.
NAMED = re.compile(r"TIMEOUT|INTERVAL|GRACE|PATIENCE|PAUSE|WAIT(?!ING|S\b)|_EVERY\b|_TTL\b|EXPIRES|_MS\b|_SECONDS\b")
BEGINS = re.compile(
    r"(milli)?seconds\b(?!,? (of|in) )|how long\b|longest (wait|time|life|pause)\b|within\b", re.IGNORECASE
)
SAYS = re.compile(r"seconds?\b|time_?out|interval|grace|patience|\bwait|\bpauses?\b|\blook|longest life", re.IGNORECASE)
#: Names of counts that a name of a duration stands in.
COUNTED = ("_PRUNE_EVERY",)


def numbers(module: Module) -> Iterator[tuple[str, ast.expr, str]]:
    """The constants at the head of a module that are numbers or spans: name, value, and the comment above or behind."""
    lines = module.path.read_text(encoding="utf-8").splitlines()
    for node in module.tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if not isinstance(node, ast.Assign | ast.AnnAssign) or target is None or value is None:
            continue
        above = node.lineno - 1
        while above and lines[above - 1].startswith("#:"):
            above -= 1
        said = " ".join(line.removeprefix("#:").strip() for line in lines[above : node.lineno - 1])
        said = said or lines[node.end_lineno - 1].partition("#:")[2].strip()
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = list(zip(target.elts, value.elts, strict=True))
        for name, given in pairs:
            if isinstance(name, ast.Name) and (_is_number(given) or _is_span(given)):
                yield name.id, given, said


def _is_number(value: ast.expr) -> bool:
    parts = [node for node in ast.walk(value) if isinstance(node, ast.expr)]
    return all(
        isinstance(node, ast.BinOp | ast.UnaryOp)
        or (isinstance(node, ast.Constant) and type(node.value) in (int, float))
        for node in parts
    )


def _is_span(value: ast.expr) -> bool:
    """A ``timedelta`` of numbers; one of ``timeouts.NAME`` is only another form of that constant."""
    is_one = isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] == "timedelta"
    return is_one and "timeouts." not in ast.unparse(value)


def reads_like_a_duration(name: str, value: ast.expr, said: str) -> bool:
    if _is_span(value) or BEGINS.match(said):
        return True
    has_a_point = any(isinstance(node, ast.Constant) and type(node.value) is float for node in ast.walk(value))
    return bool((NAMED.search(name) and name not in COUNTED) or (has_a_point and SAYS.search(said)))


def strays() -> set[str]:
    return {
        f"{module}.{name}"
        for module in modules().values()
        if not within(module.name, HOME, *ELSEWHERE)
        for name, value, said in numbers(module)
        if reads_like_a_duration(name, value, said)
    }


def test_each_duration_stands_in_one_module() -> None:
    """One that stands elsewhere moves there; a size or a share that reads like one is worded anew, or an exception with its
    reason."""
    assert strays() - set(EXCEPTIONS) == set()


def test_no_exception_outlives_its_reason() -> None:
    assert set(EXCEPTIONS) - strays() == set()


EXAMPLE = """
#: Longest pause of the reader.
REPLY_TIMEOUT = 4
#: Between two looks at the table.
_LOOK, _PAGE = 0.5, 100
_SPAN = timedelta(minutes=1)
_PAUSE = 2
#: How long a note stays.
_KEPT = 7 * 86400
#: Threads that wait for a broker.
_THREADS = 16
#: Of the records.
_SHARE = 0.5
"""


def test_durations_are_found_by_their_names_their_comments_and_their_type(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(EXAMPLE, encoding="utf-8")
    module = Module("example", path, False, ast.parse(EXAMPLE))
    found = {name: reads_like_a_duration(name, value, said) for name, value, said in numbers(module)}
    assert {name for name, is_one in found.items() if is_one} == {"REPLY_TIMEOUT", "_LOOK", "_SPAN", "_PAUSE", "_KEPT"}
    assert {name for name, is_one in found.items() if not is_one} == {"_PAGE", "_THREADS", "_SHARE"}


def test_the_module_imports_nothing_and_stays_short() -> None:
    module = modules()[HOME]
    assert [one.target for one in module.imports if one.target != "__future__"] == []
    assert len(module.path.read_text(encoding="utf-8").splitlines()) < LONGEST_MODULE


def readers() -> dict[str, list[str]]:
    """By name, the files that read it, as the page writes them."""
    found: dict[str, set[str]] = {}
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "timeouts":
                path = str(module.path.relative_to(ROOT)).removeprefix("stem_kombu/")
                found.setdefault(node.attr, set()).add(path)
    return {name: sorted(paths) for name, paths in found.items()}


def test_each_is_read_as_an_attribute_and_none_is_unused() -> None:
    """So a search for its name finds all of its readers, and a test that changes it changes it for all of them."""
    assert set(readers()) == {name for name, _, _ in numbers(modules()[HOME])}
    taken = [
        f"{module}:{node.lineno}"
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.module == HOME
    ]
    assert taken == []


def table() -> str:
    """The table of the page, made from the module and from those who read it."""
    module, where = modules()[HOME], readers()
    values = {name: (value, said) for name, value, said in numbers(module)}
    rows = ["| Name | Seconds | What for | Where used |", "| --- | --- | --- | --- |"]
    for line in module.path.read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"# (.+)$", line):
            rows.append(f"| **{heading[1]}** | | | |")
        elif (name := line.partition(" = ")[0]) in values:
            value, said = values[name]
            number = float(eval(compile(ast.Expression(value), HOME, "eval"), {}))  # noqa: S307 - digits of our own
            used = ", ".join(f"`{path}`" for path in where.get(name, ()))
            rows.append(f"| `{name}` | {_shown(name, number)} | {said.replace('``', '`')} | {used} |")
    return "\n".join(rows) + "\n"


def _shown(name: str, number: float) -> str:
    shown = f"{number:,.0f}" if number == int(number) else f"{number:.3g}"
    if name.endswith("_SHARE"):
        return f"share {shown}"
    if name.endswith("_INTERVALS"):
        return f"{shown} intervals"
    if number >= 86400.0:
        return f"{shown} ({number / 86400.0:g} d)"
    return f"{shown} ({number / 3600.0:g} h)" if number >= 3600.0 else shown


def test_the_page_has_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    told, end, after = rest.partition(END)
    assert begin and end
    if os.environ.get("STEM_TEST_GOLDEN") == "write":
        PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")
        return
    assert told.strip() == table().strip()
