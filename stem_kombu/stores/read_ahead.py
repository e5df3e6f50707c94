"""Reading pages ahead: while a caller takes in what it has, the server finds what comes next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Semaphore
from typing import TypeVar

Place = TypeVar("Place")
Page = TypeVar("Page")

#: Pages that are read and not yet asked for. With one, the reader would ask the server for the next only when the caller has
#: taken that one, and the interpreter is then the caller's: the server would have nothing to do meanwhile.
_AHEAD = 2


def pages_from(
    place: Place, read: Callable[[Place], Page], following: Callable[[Page], Place | None]
) -> Iterator[Page]:
    """Every page: the one that ``read`` finds at a place, then the one at the place ``following`` it, until there is none.

    From the third page on another thread reads, as only a stream that is long is worth a thread. At most two pages are read that
    are not asked for, and no thread is left when the stream ends or is closed. What ``read`` raises is raised here.
    """
    page = read(place)
    after = following(page)
    yield page
    if after is None:
        return
    page = read(after)
    after = following(page)
    if after is None:
        yield page
        return
    room, found = Semaphore(_AHEAD), SimpleQueue[Page | None]()
    is_over = False

    def read_on(place: Place | None) -> None:
        try:
            while place is not None:
                room.acquire()
                if is_over:
                    return
                page = read(place)
                place = following(page)
                found.put(page)
        finally:
            found.put(None)

    with ThreadPoolExecutor(1, "stem-read-ahead") as reader:
        reading = reader.submit(read_on, after)
        try:
            yield page
            while (coming := found.get()) is not None:
                room.release()
                yield coming
            reading.result()
        finally:
            is_over = True
            room.release()
