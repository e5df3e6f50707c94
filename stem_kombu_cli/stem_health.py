"""``stem-health``: is that worker of this host alive, and does it consume? From its health file alone.

It runs every few seconds on each host, so it loads nothing but :mod:`stem_kombu.health_page` and small modules of the standard
library: no parser of arguments, no JSON library. ``stem worker healthcheck`` is the same with the options of ``stem``.
"""

from __future__ import annotations

import os
import sys
import time

from stem_kombu.health_page import SUFFIX, Health, Page, file_name, folders, health_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OK, NO, USAGE, NOTHING_MATCHED = 0, 1, 2, 4

HELP = """\
usage: stem-health [--name ID | --file PATH] [--namespace NS] [--live | --ready] [--json] [-q]

Is a worker of this host alive, and does it consume? Reads its health file: no broker, no application.

  --name ID       the worker; not needed where only one has a health file
  --file PATH     its health file  [env: STEM_HEALTH_FILE]
  --namespace NS  of the worker (default: stem)  [env: STEM_CONTROL_NAMESPACE, STEM_WORKER_NAMESPACE]
  --live          whether it should be restarted: its process is there, and its vital threads move
  --ready         whether it consumes what it should; the default
  --json          one document (stem.probe/1) on stdout
  -q, --quiet     nothing but the exit code

Exit codes: 0 yes, 1 no, 2 wrong usage, 4 no such worker.
"""


class WrongUsage(Exception):
    """The arguments can't be meant; the text says why."""


class Question:
    """Which worker is looked at, and what is asked. ``file`` beats ``worker``; a blank ``namespace`` is the variables'."""

    def __init__(self) -> None:
        self.worker = self.file = self.namespace = ""
        self.live = self.ready = self.as_json = self.quiet = False


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    try:
        question = asked(sys.argv[1:] if arguments is None else arguments)
    except WrongUsage as error:
        sys.stderr.write(f"stem-health: {error}\n")
        return USAGE
    if question is None:
        sys.stdout.write(HELP)
        return OK
    return answer(question)


def asked(arguments: Sequence[str]) -> Question | None:
    """What the arguments ask, ``None`` for help. Raises :class:`WrongUsage`."""
    question = Question()
    left = list(arguments)
    while left:
        option, equals, value = left.pop(0).partition("=")
        if option in ("--name", "--file", "--namespace"):
            if not equals and left:
                value = left.pop(0)
            if not value:
                raise WrongUsage(f"{option} needs a value")
            setattr(question, "worker" if option == "--name" else option[2:], value)
        elif equals:
            raise WrongUsage(f"{option} takes no value")
        elif option in ("-h", "--help"):
            return None
        elif option in ("-q", "--quiet"):
            question.quiet = True
        elif option == "--json":
            question.as_json = True
        elif option in ("--live", "--ready"):
            setattr(question, option[2:], True)
        else:
            raise WrongUsage(f"nothing is known of {option!r}; see stem-health --help")
    return question


def answer(question: Question, environ: Mapping[str, str] = os.environ) -> int:
    """Look, print, and return the exit code."""
    try:
        if question.live and question.ready:
            raise WrongUsage("--live and --ready are two questions: ask one")
        if question.file and question.worker:
            raise WrongUsage("--name and --file both name the worker: give one")
        health = looked_at(question, environ)
    except WrongUsage as error:
        sys.stderr.write(f"error: {error}\n")
        return USAGE
    good = health.live if question.live else health.ready
    try:
        if question.as_json:
            sys.stdout.write(document(health))
        elif not question.quiet:
            sys.stdout.write(f"{health.state}: {health.worker or 'worker'}: {health.message}\n")
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # its reader has gone; the exit code is the answer
    return NOTHING_MATCHED if health.state == "gone" else OK if good else NO


def looked_at(question: Question, environ: Mapping[str, str]) -> Health:
    """How that worker stands; ``gone`` where there is none. Raises :class:`WrongUsage` where several may be meant, and for a file
    that is none or can't be read."""
    path, looked = question.file or ("" if question.worker else environ.get("STEM_HEALTH_FILE", "").strip()), ""
    if not path or path == "off":
        path, looked = _found(question, environ)
    try:
        health = health_of(Page.at(path), time.monotonic()) if path else None
    except FileNotFoundError:
        health, looked = None, path
    except (OSError, ValueError) as error:
        raise WrongUsage(f"health file {path}: {getattr(error, 'strerror', None) or error}") from None
    return health or Health(question.worker or None, "gone", f"no health file of it is at {looked}")


def _found(question: Question, environ: Mapping[str, str]) -> tuple[str, str]:
    """The file, blank where there is none, and where it was looked for."""
    namespace = question.namespace or (
        environ.get("STEM_CONTROL_NAMESPACE", "").strip() or environ.get("STEM_WORKER_NAMESPACE", "").strip() or "stem"
    )
    places = folders(environ, namespace)
    found = []
    for folder in places:
        if question.worker:
            path = f"{folder}/{file_name(question.worker)}"
            if os.access(path, os.F_OK):
                return path, path
        else:
            try:
                found += [f"{folder}/{name}" for name in os.listdir(folder) if name.endswith(SUFFIX)]  # noqa: PTH208
            except OSError:
                continue
    if len(found) > 1:
        # Files of workers that were killed don't make it ambiguous.
        found = [path for path in found if _is_alive(path)]
    if len(found) > 1:
        names = sorted(path.rpartition("/")[2][: -len(SUFFIX)] for path in found)
        raise WrongUsage(f"{len(found)} workers run here: add --name, one of {', '.join(names)}")
    name = file_name(question.worker) if question.worker else f"*{SUFFIX}"
    return found[0] if found else "", " or ".join(f"{folder}/{name}" for folder in places)


def _is_alive(path: str) -> bool:
    try:
        return Page.at(path).alive
    except (OSError, ValueError):
        return False


def document(health: Health) -> str:
    """``stem.probe/1``, with a line's end."""
    threads = ", ".join(
        f'{{"name": {_text(name)}, "age_s": {age:.3f}, "limit_s": {limit:.3f}}}' for name, age, limit in health.threads
    )
    queues = ", ".join(f'{_text(name)}: {{"consuming": {_bool(on)}}}' for name, on in health.queues.items())
    fields = {
        "schema": '"stem.probe/1"',
        "worker": "null" if health.worker is None else _text(health.worker),
        "state": _text(health.state),
        "live": _bool(health.live),
        "ready": _bool(health.ready),
        "threads": f"[{threads}]",
        "queues": f"{{{queues}}}",
        "store_age_s": "null" if health.store_age is None else f"{health.store_age:.3f}",
        "pid": "null" if health.pid is None else str(health.pid),
        "message": _text(health.message),
    }
    return "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}\n"


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _text(text: str) -> str:
    """As JSON, in ASCII."""
    shown = []
    for char in text:
        if char in '"\\':
            shown.append(f"\\{char}")
        elif " " <= char <= "~":
            shown.append(char)
        else:
            units = char.encode("utf-16-be", "surrogatepass")
            shown += [f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2)]
    return f'"{"".join(shown)}"'


if __name__ == "__main__":
    sys.exit(main())
