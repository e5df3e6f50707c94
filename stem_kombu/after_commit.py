"""Sending a task once a transaction of SQLAlchemy is committed: a worker that began sooner would look for rows that are not
there yet, and one of a transaction that was rolled back for rows that never come.

Django has this built in: ``transaction.on_commit(partial(send.delay, order.id))``. Nothing of SQLAlchemy is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import shown

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

#: In ``session.info``: the calls that wait, each with the transaction or savepoint in which it was registered.
_WAITING = "stem_kombu_after_commit"


class SyncSession(Protocol):
    """What is used of a ``sqlalchemy.orm.Session`` or a ``scoped_session``."""

    @property
    def info(self) -> dict[Any, Any]: ...
    def get_transaction(self) -> object: ...
    def get_nested_transaction(self) -> object: ...
    def begin(self) -> object: ...


def on_commit(session: SyncSession, call: Callable[[], object]) -> None:
    """Call the function once the session's transaction is committed: ``on_commit(session, partial(send.delay, order.id))``.

    What was registered within a savepoint that is rolled back is forgotten with it, and everything with the transaction. The
    calls are made in their order, in the thread that commits. One that raises leaves the rows committed and the calls after
    it unmade, and ``session.commit()`` raises its error. Raises :class:`~stem_kombu.errors.ConfigurationError` for what is no
    session, an ``AsyncSession`` among them: there say ``await session.commit()`` and then ``await send.asend(…)``.
    """
    target: Any = session() if callable(session) else session  # of a scoped_session
    if hasattr(target, "sync_session"):
        raise ConfigurationError(
            "on_commit() would block the event loop of an AsyncSession while the broker is waited for",
            hint="await session.commit(), then await task.asend(…)",
        )
    if not (hasattr(target, "get_nested_transaction") and hasattr(target, "info")):
        raise ConfigurationError(
            f"on_commit() takes a session of SQLAlchemy, not {shown(session)} ({type(session).__name__})",
            hint="with Django: transaction.on_commit(partial(task.delay, …))",
        )
    if not callable(call):
        raise ConfigurationError(
            f"on_commit() takes a function, not {shown(call)} ({type(call).__name__})",
            hint="partial(task.delay, order.id)",
        )
    if _WAITING not in target.info:
        target.info[_WAITING] = []
        _listen(target)
    within = target.get_nested_transaction() or target.get_transaction() or target.begin()
    target.info[_WAITING].append((within, call))


def _listen(session: object) -> None:
    from sqlalchemy import event

    event.listen(session, "after_commit", _committed)
    event.listen(session, "after_transaction_end", _ended)


def _committed(session: Session) -> None:
    waiting = session.info[_WAITING]
    if (savepoint := session.get_nested_transaction()) is not None:
        # Released, and now as safe as what is around it.
        session.info[_WAITING] = [(savepoint.parent if one is savepoint else one, call) for one, call in waiting]
        return
    session.info[_WAITING] = []
    for _, call in waiting:
        call()


def _ended(session: Session, transaction: Any) -> None:
    """However it ended: what waits for it still was not committed."""
    if transaction.nested:
        session.info[_WAITING] = [entry for entry in session.info[_WAITING] if entry[0] is not transaction]
    elif transaction.parent is None:
        session.info[_WAITING] = []
