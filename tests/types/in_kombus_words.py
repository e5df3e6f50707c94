"""A developer's module that speaks Kombu's words: a file of its own, as Kombu says nothing of its types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kombu import Connection, Exchange, Queue

from stem_kombu import AsyncResult, Stem, Worker

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value: object, kind: object) -> None: ...


app = Stem("shop", broker="memory://")

VIDEO = Queue("video", Exchange("media", type="topic"), routing_key="video.#", max_priority=9)
declared = Stem("shop", queues=["plain", VIDEO], default_queue=VIDEO)


@app.task("video.cut", queue=VIDEO, priority=3, compression="gzip", serializer="json")
def cut(width: int) -> int:
    return width


def in_kombus_words(connection: Connection) -> None:
    assert_type(cut.apply_async((1,), priority=9, exchange=Exchange("media"), routing_key="video.x"), AsyncResult[int])
    assert_type(cut.send_many([(1,)], queue=VIDEO, compression="xz", connection=connection), list[AsyncResult[int]])
    app.send_task("video.cut", (1,), connection="redis://localhost", headers={"shop": "berlin"}, serializer="json")
    Worker(app, queues=["plain", VIDEO], connection=connection)
