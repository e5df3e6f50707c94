"""What a driver's error means, as a value that is found in a table: by class, by code, or by words of its text.

A server's words are read only where neither class nor code tells two causes apart: they differ by version and language.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from stem_kombu.errors import StoreError, StoreRefused, StoreUnavailable


class Diagnosis(NamedTuple):
    """``what`` failed, empty where the driver's text says it; the ``hint``; and whether the server will go on refusing it
    until a person changes something."""

    what: str
    hint: str | None
    refused: bool = False

    def sentence(self, text: str) -> str:
        """What failed, with the driver's ``text``."""
        return f"{self.what} ({text})" if self.what else text


def by_words(table: Iterable[tuple[str, Diagnosis]], text: str) -> Diagnosis | None:
    """The first entry whose words are in the text: the more special ones stand first."""
    return next((found for words, found in table if words in text), None)


def by_class(table: Mapping[str, Diagnosis], error: BaseException) -> Diagnosis | None:
    """The entry of the error's class, or of the nearest class that it inherits from."""
    return next((table[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in table), None)


def store_error(where: str, text: str, found: Diagnosis | None) -> StoreError:
    """The error of a store: temporary or refused, and neither where nothing is known of it."""
    if found is None:
        return StoreError(f"{where}: {text}")
    return (StoreRefused if found.refused else StoreUnavailable)(f"{where}: {found.sentence(text)}", hint=found.hint)
