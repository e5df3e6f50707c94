"""Tasks that are sent once a transaction of SQLAlchemy is committed, never before, and never for what was rolled back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stem_kombu import Stem, Worker
from stem_kombu.after_commit import on_commit
from stem_kombu.errors import ConfigurationError

sqlalchemy = pytest.importorskip("sqlalchemy")
orm: Any = pytest.importorskip("sqlalchemy.orm")


class Base(orm.DeclarativeBase):  # type: ignore[misc]
    pass


class Order(Base):
    __tablename__ = "orders"
    id = orm.mapped_column(sqlalchemy.Integer, primary_key=True)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Any]:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Any) -> Iterator[Any]:
    with orm.Session(engine) as session:
        yield session


def test_a_task_finds_the_row_that_its_sender_has_committed(engine: Any, session: Any) -> None:
    app = Stem("shop", broker="memory://", backend="memory://", revoke_store="memory://")

    @app.task("orders.bill")
    def bill(number: int) -> bool:
        with orm.Session(engine) as own:
            return own.get(Order, number) is not None

    results = []
    with Worker(app, concurrency=1):
        session.add(Order(id=7))
        on_commit(session, lambda: results.append(bill.delay(7)))
        session.flush()
        assert results == []
        session.commit()
        assert results[0].get(timeout=60) is True
    app.close()


def test_calls_are_made_in_their_order_once(session: Any) -> None:
    called: list[int] = []
    for number in (1, 2):
        on_commit(session, partial(called.append, number))  # also before anything has begun
    session.commit()
    session.add(Order(id=1))
    session.commit()
    assert called == [1, 2]


def test_what_is_rolled_back_sends_nothing_then_and_later(session: Any) -> None:
    called: list[int] = []
    session.add(Order(id=1))
    on_commit(session, partial(called.append, 1))
    session.rollback()
    session.add(Order(id=2))
    session.commit()
    assert called == []


def test_a_savepoint_that_is_rolled_back_takes_its_own_calls_along(session: Any) -> None:
    called: list[str] = []
    on_commit(session, partial(called.append, "outer"))
    with session.begin_nested():
        on_commit(session, partial(called.append, "kept"))
        lost = session.begin_nested()
        on_commit(session, partial(called.append, "lost"))
        lost.rollback()
    gone = session.begin_nested()
    with session.begin_nested():
        on_commit(session, partial(called.append, "released within what is gone"))
    gone.rollback()
    assert called == []
    session.commit()
    assert called == ["outer", "kept"]


def test_a_session_that_is_closed_sends_nothing(engine: Any) -> None:
    called: list[int] = []
    with orm.Session(engine) as session:
        on_commit(session, partial(called.append, 1))
    session.commit()
    assert called == []


def test_a_failing_call_leaves_the_rows_committed(engine: Any, session: Any) -> None:
    def fail() -> None:
        raise ConnectionError("no broker")

    session.add(Order(id=3))
    on_commit(session, fail)
    with pytest.raises(ConnectionError, match="no broker"):
        session.commit()
    with orm.Session(engine) as other:
        assert other.get(Order, 3) is not None


def test_a_scoped_session_is_one_too(engine: Any) -> None:
    called: list[int] = []
    scoped = orm.scoped_session(orm.sessionmaker(engine))
    on_commit(scoped, partial(called.append, 1))
    scoped.commit()
    scoped.remove()
    assert called == [1]


def test_what_is_no_session_is_named() -> None:
    pytest.importorskip("greenlet")
    from sqlalchemy.ext.asyncio import AsyncSession

    with pytest.raises(ConfigurationError, match="takes a session of SQLAlchemy, not 5"):
        on_commit(5, print)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="would block the event loop") as raised:
        on_commit(AsyncSession(), print)  # type: ignore[arg-type]
    assert raised.value.hint == "await session.commit(), then await task.asend(…)"
    with pytest.raises(ConfigurationError, match="takes a function, not 5"):
        on_commit(orm.Session(), 5)
    asyncio.set_event_loop(None)
