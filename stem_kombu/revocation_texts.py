"""Texts that repeat, each kept once: the reasons and requesters of a worker's revocations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stem_kombu.row_block import is_same

#: A worker that is told more different texts keeps no more of them.
_MOST_TEXTS = 1 << 24


class Texts:
    """Texts by number, each kept once and for as long as a record names it. Number 0 is no text."""

    def __init__(self) -> None:
        #: Read by others, changed here.
        self.by_number: list[str | None] = [None]
        self._uses: list[int] = [0]
        self._numbers: dict[str, int] = {}
        self._free: list[int] = []

    def add_all(self, texts: Sequence[str | None]) -> list[int]:
        """As :meth:`add` for each of at least one text, most of which are the same."""
        if is_same(texts):
            return [self.add(texts[0], len(texts))] * len(texts)
        numbers = {text: self.add(text, uses) for text, uses in Counter(texts).items()}
        return [numbers[text] for text in texts]

    def add(self, text: str | None, uses: int = 1) -> int:
        """The number of the text, with so many more uses; 0 as well when 16 million others are in use: the revocation is in
        force all the same, and the store still has its words."""
        if text is None:
            return 0
        number = self._numbers.get(text)
        if number is None:
            if self._free:
                number = self._free.pop()
                self.by_number[number] = text
            elif len(self.by_number) < _MOST_TEXTS:
                number = len(self.by_number)
                self.by_number.append(text)
                self._uses.append(0)
            else:
                return 0
            self._numbers[text] = number
        self._uses[number] += uses
        return number

    def keep(self, number: int) -> None:
        """One use more of a text that is in use."""
        if number:
            self._uses[number] += 1

    def drop(self, number: int) -> None:
        """One use less."""
        if number == 0:
            return
        self._uses[number] -= 1
        if self._uses[number] == 0:
            text = self.by_number[number]
            self.by_number[number] = None
            self._free.append(number)
            if text is not None:
                del self._numbers[text]
