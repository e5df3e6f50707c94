"""What a store needs to exist in a database before it can work, and the names by which its presence is checked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_CREATES = re.compile(
    r"\s*CREATE\s+(?:UNIQUE\s+|UNLOGGED\s+)?(?:TABLE|INDEX)\s+IF\s+NOT\s+EXISTS\s+(\w+)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Schema:
    """Statements ``CREATE TABLE|INDEX IF NOT EXISTS name …``, in order, and the names that they create.

    The names are looked up first and the statements run only when one is missing, so that an account without the right
    to create tables can use a schema that another account made. ``columns`` (table, column, type) came later than their
    tables: they are added to tables that an earlier version made.
    """

    statements: tuple[str, ...]
    names: tuple[str, ...]
    columns: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def of(cls, statements: Iterable[str], columns: Iterable[tuple[str, str, str]] = ()) -> Schema:
        """The schema of these statements; raises ``ValueError`` for one that is no CREATE … IF NOT EXISTS."""
        found = []
        for statement in (listed := tuple(statements)):
            if (match := _CREATES.match(statement)) is None:
                raise ValueError(f"not a CREATE … IF NOT EXISTS statement: {statement[:60]!r}")
            found.append(match.group(1))
        return cls(listed, tuple(found), tuple(columns))

    def script(self) -> list[str]:
        """The statements that make it whole on PostgreSQL, each on one line, without semicolons; harmless when repeated."""
        added = [
            f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {type_}" for table, column, type_ in self.columns
        ]
        return [" ".join(statement.split()) for statement in (*self.statements, *added)]
