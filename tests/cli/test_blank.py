"""A blank value (``--name "$UNSET"``) is refused, whatever the command: it must not become everyone, nor nothing."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from stem_kombu_cli.main import cli
from tests.cli.program import Program

#: What is asked of a person for the records alone; blank is as good as absent there (STEM_REQUIRE_REASON decides).
FREE = {"--reason", "--requester"}
#: What else a command needs before it looks at the option.
NEEDED = {
    "worker scale": ["2"],
    "worker autoscale": ["1,2"],
    "worker rate-limit": ["1/s"],
    "worker log-level": ["debug"],
    "worker call": ["reload"],
    "queue pause": ["mail"],
    "queue resume": ["mail"],
    "queue peek": ["mail"],
    "queue purge": ["mail"],
    "task send": ["shop.add"],
    "task show": ["t-1"],
    "task retry": ["t-1"],
    "revokes show": ["t-1"],
    "store export": ["-"],
}


def _leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from _leaves(found, (*path, name))


def _texts() -> Iterator[tuple[str, str]]:
    """Options that commands share are tried with the first of them."""
    leaves = list(_leaves(cli))
    shared = {tuple(one.opts) for path, command in leaves if path == "worker ping" for one in command.params}
    for path, command in leaves:
        for one in command.params:
            is_text = isinstance(one.type, click.types.StringParamType) or one.type.name in ("text", "duration")
            # Without its application no worker looks at anything: tests/cli/test_start.py.
            if (
                is_text
                and path != "worker start"
                and not FREE & set(one.opts)
                and (path == "worker ping" or tuple(one.opts) not in shared)
            ):
                yield path, one.opts[-1] if isinstance(one, click.Option) else one.human_readable_name


@pytest.mark.parametrize(("path", "name"), [pytest.param(*one, id=" ".join(one)) for one in _texts()])
def test_a_blank_value_is_refused(path: str, name: str, stem: Program) -> None:
    given = [*NEEDED.get(path, ()), name, " "] if name.startswith("-") else [" "]
    # Nothing is there: a command that went on would end with 74.
    done = stem.run(*path.split(), *given, env={"STEM_BROKER_URL": "redis://127.0.0.1:1/0"})
    assert done.code == 2, done
    assert "error: " in done.err, done
