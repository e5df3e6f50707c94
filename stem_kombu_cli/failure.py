"""How a command ends that could not do what was asked: a sentence, a hint, a code, and the facts that JSON adds to them."""

from __future__ import annotations

from collections.abc import Mapping


class Failure(Exception):
    """Ends the program with ``code``; ``facts`` are further fields of the JSON document (``stem.error/1``)."""

    def __init__(
        self, message: str, code: int, *, hint: str | None = None, facts: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.facts = dict(facts or {})


def document(message: str, hint: str | None, code: int, facts: Mapping[str, object]) -> dict[str, object]:
    """The JSON form. ``stored``: the records that hold although the command failed."""
    return {"schema": "stem.error/1", "code": code, "error": message, "hint": hint, "stored": [], **facts}
