"""Pages that are read ahead."""

from __future__ import annotations

import threading

import pytest

from stem_kombu.stores.read_ahead import pages_from


class Book:
    """Pages by number; each reading is noted with the thread that did it."""

    def __init__(self, pages: int, *, torn: int | None = None) -> None:
        self.pages, self.torn = pages, torn
        self.read: list[tuple[int, str]] = []
        self.opened = {number: threading.Event() for number in range(pages + 1)}

    def page(self, number: int) -> int:
        self.read.append((number, threading.current_thread().name))
        self.opened[number].set()
        if number == self.torn:
            raise OSError(f"page {number} is torn")
        return number

    def following(self, number: int) -> int | None:
        return number + 1 if number + 1 < self.pages else None


def test_every_page_comes_once_and_in_order() -> None:
    for count in range(1, 6):
        book = Book(count)

        assert list(pages_from(0, book.page, book.following)) == list(range(count))
        assert [number for number, _ in book.read] == list(range(count))


def test_two_pages_are_read_while_the_second_is_taken_in_and_no_third() -> None:
    """The reader asks for the second of them by itself: it needs nothing of the caller, who keeps the interpreter busy."""
    book = Book(6)
    pages = pages_from(0, book.page, book.following)

    assert next(pages) == 0
    assert len(book.read) == 1
    assert next(pages) == 1
    assert book.opened[2].wait(30)
    assert book.opened[3].wait(30)
    assert all(thread.startswith("stem-read-ahead") for _, thread in book.read[2:])
    assert not book.opened[4].is_set()
    assert next(pages) == 2
    assert book.opened[4].wait(30)
    assert not book.opened[5].is_set()
    pages.close()  # type: ignore[attr-defined]


def test_a_stream_that_is_closed_leaves_no_thread_and_reads_no_more() -> None:
    book = Book(9)
    pages = pages_from(0, book.page, book.following)
    next(pages), next(pages)
    assert book.opened[3].wait(30)

    pages.close()  # type: ignore[attr-defined]

    assert [number for number, _ in book.read] == [0, 1, 2, 3]
    assert not [one for one in threading.enumerate() if one.name.startswith("stem-read-ahead")]


@pytest.mark.parametrize("torn", range(4))
def test_what_a_reading_raises_comes_behind_the_pages_before_it(torn: int) -> None:
    book, found = Book(5, torn=torn), []

    with pytest.raises(OSError, match=f"page {torn} is torn"):  # noqa: PT012 - what was found before it is looked at
        for page in pages_from(0, book.page, book.following):
            found.append(page)

    assert found == list(range(torn))
    assert not [one for one in threading.enumerate() if one.name.startswith("stem-read-ahead")]
