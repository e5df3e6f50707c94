"""Reading a page ahead: while a caller takes in what it has, the server finds what comes next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Place = TypeVar("Place")
Page = TypeVar("Page")


def pages_from(
    place: Place, read: Callable[[Place], Page], following: Callable[[Page], Place | None]
) -> Iterator[Page]:
    """Every page: the one that ``read`` finds at a place, then the one at the place ``following`` it, until there is none.

    From the third page on another thread reads the next one meanwhile, as only a stream that is long is worth a thread. At most
    one page is read that is not asked for, and no thread is left when the stream ends or is closed. What ``read`` raises is
    raised here.
    """
    page = read(place)
    after = following(page)
    yield page
    if after is None:
        return
    page = read(after)
    after = following(page)
    with ThreadPoolExecutor(1, "stem-read-ahead") as reader:
        while after is not None:
            coming = reader.submit(read, after)
            yield page
            page = coming.result()
            after = following(page)
    yield page
