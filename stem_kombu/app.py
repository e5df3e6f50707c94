"""The application: where tasks are defined, sent and looked up.

Nothing here connects before it must: defining tasks costs an import, the first ``delay()`` opens the producer.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from stem_kombu.arguments import listed
from stem_kombu.calls import each_call, message_of
from stem_kombu.clock import SYSTEM
from stem_kombu.configured import Configured
from stem_kombu.definitions import Definitions
from stem_kombu.drivers import forking
from stem_kombu.errors import BrokerError, ConfigurationError, StoreError
from stem_kombu.fields import shown
from stem_kombu.keywords import MANY_OPTIONS, SEND_OPTIONS, CallOptions, CommonOptions, SendOptions, refuse_unknown
from stem_kombu.outcome import TaskRecord, TaskState, sent_later
from stem_kombu.publishing import DESTINATION_OPTIONS, destination
from stem_kombu.send_retries import RETRY_OPTIONS, SendRetries, retries_of
from stem_kombu.task import TaskMessage, TaskOptions, TaskRegistry

if TYPE_CHECKING:
    from kombu import Connection
    from kombu.connection import ConnectionPool
    from typing_extensions import Unpack

    from stem_kombu.backends.base import Backend
    from stem_kombu.control.client.client import ControlClient
    from stem_kombu.eager import EagerBroker
    from stem_kombu.keywords import SettingsKeywords
    from stem_kombu.result import AsyncResult
    from stem_kombu.settings import Settings
    from stem_kombu.stores.base import RevokeStore
    from stem_kombu.transports.other_brokers import OtherBrokers
    from stem_kombu.transports.producer import TaskProducer

P = ParamSpec("P")
R = TypeVar("R")
Handler = TypeVar("Handler", bound=Callable[..., Any])

#: Options of a call that are no fields of its message.
_NOT_FIELDS = frozenset((*DESTINATION_OPTIONS, *RETRY_OPTIONS))
#: Of a task that is sent by a name that is not defined here.
_NO_OPTIONS = TaskOptions()


class Stem(Configured, Definitions):
    """An application: a registry of tasks, and the settings by which they are sent and run.

    ``name`` is a label for people. ``include`` names modules that define tasks; a worker and its children import them.
    Settings come from the environment unless given as keywords, which are those of
    :meth:`stem_kombu.settings.Settings.from_env` (``broker=``, ``backend=``, ``revoke_store=``, ``namespace=`` …).
    ``settings`` has them as a mapping by the same names, as a module, class or other object with attributes such as
    ``STEM_BROKER``, or resolved. A name that is no setting raises :class:`~stem_kombu.errors.ConfigurationError` at once.
    A malformed setting raises :class:`~stem_kombu.errors.ConfigurationError` at first use, not at import, so that
    ``stem --help`` and a test that imports the module never fail for it.
    """

    def __init__(
        self,
        name: str = "stem",
        *,
        settings: Settings | Mapping[str, object] | object | None = None,
        include: Sequence[str] = (),
        **given: Unpack[SettingsKeywords],
    ) -> None:
        Definitions.__init__(self)
        Configured.__init__(self, name, settings, given)
        self.include = (include,) if isinstance(include, str) else listed(include, f"include of Stem({name!r})")
        self._lock = threading.RLock()
        forking.renew_in_children(self)
        self._backend: Backend | None = None
        self._producer: TaskProducer | EagerBroker | None = None
        self._others: OtherBrokers | None = None
        self._control: ControlClient | None = None
        #: ``module:factory()`` that made the application, where one did.
        self.made_by: str | None = None
        self._module = sys._getframe(1).f_globals.get("__name__", "__main__")

    def load(self) -> None:
        """Import the modules of ``include``; raises what importing one does."""
        for name in self.include:
            importlib.import_module(name)

    @property
    def target(self) -> str | None:
        """``module:attribute`` under which a child process finds this application, ``module:factory()`` when that function
        made it for the command line, or ``None`` when no module holds it."""
        if self.made_by is not None:
            return self.made_by
        module = sys.modules.get(self._module)
        for attribute, value in vars(module).items() if module is not None else ():
            if value is self:
                return f"{self._module}:{attribute}"
        return None

    # -- sending ----------------------------------------------------------------------------------------------------

    def send_task(
        self,
        name: str,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
        *,
        connection: Connection | ConnectionPool | str | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:
        """Enqueue a task by name, without importing its handler; returns once the broker has it. Nothing here knows the
        handler's signature: arguments that don't fit it fail at the worker.

        ``options`` are those of :class:`~stem_kombu.keywords.SendOptions`; ``connection`` is a Kombu connection, a pool or a
        URL's text, whose broker gets the task in place of the settings'. Raises
        :class:`~stem_kombu.errors.ConfigurationError` for arguments that JSON can't hold and for a bad option, and
        :class:`~stem_kombu.errors.BrokerUnavailable` when the broker can't be reached in bounded time.
        """
        if options:
            refuse_unknown(f"send_task of task {name!r}", options, SEND_OPTIONS)
        message = self._message(name, args, kwargs, options)
        retries = retries_of(f"task {name!r}", options) if options else None
        if options.get("task_id") is not None:
            message = self._as_new_life(message)
        self._send([message], connection, retries)
        return _result_type()(message.task_id, self.backend, self)

    async def asend_task(
        self,
        name: str,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[Any]:
        """:meth:`send_task` for coroutines: a thread waits for the broker, and the event loop goes on. Raises what that
        raises. A call that is cancelled while it waits may have sent the task."""
        from stem_kombu.aio import SENDING

        return await SENDING.call(partial(self.send_task, name, args, kwargs, **options))

    def send_many(
        self,
        name: str,
        calls: Iterable[Mapping[str, object] | Sequence[object]],
        *,
        task_ids: Sequence[str] | None = None,
        connection: Connection | ConnectionPool | str | None = None,
        **options: Unpack[CommonOptions],
    ) -> list[AsyncResult[Any]]:
        """Enqueue one task for each of ``calls``, much faster than one by one; returns once the broker has all of them.

        A call is its arguments: a mapping of keywords, or a list or tuple of positional ones. ``task_ids`` are as many ids
        as calls; ``options`` are those of :meth:`send_task` but ``task_id``, for all. Every call is checked before the first
        is sent; a bad one raises :class:`~stem_kombu.errors.ConfigurationError`. A :class:`~stem_kombu.errors.BrokerError`
        in the middle names the ids in ``unconfirmed`` that the broker has not confirmed; all others are enqueued.
        """
        from stem_kombu.result import AsyncResult

        refuse_unknown(f"send_many of task {name!r}", options, MANY_OPTIONS)
        retries = retries_of(f"task {name!r}", options)
        messages = [
            self._message(name, args, kwargs, {**options, "task_id": task_id})
            for args, kwargs, task_id in each_call(name, calls, task_ids)
        ]
        self._send(messages, connection, retries)
        return [AsyncResult(message.task_id, self.backend, self) for message in messages]

    def _message(
        self, name: str, args: Sequence[object], kwargs: Mapping[str, object] | None, options: Mapping[str, Any]
    ) -> TaskMessage:
        own = self.registry.get(name).options if name in self.registry else _NO_OPTIONS
        queue, publishing = destination(
            f"task {name!r}", options, own.queue, own.published, self.settings.default_queue, self.declared
        )
        more = {option: value for option, value in options.items() if option not in _NOT_FIELDS}
        return message_of(name, args, kwargs, queue, now=SYSTEM.utcnow(), publishing=publishing, **more)

    def _send(self, messages: Sequence[TaskMessage], connection: object, retries: SendRetries | None) -> None:
        producer = self.producer
        if connection is not None and self._others is not None:
            producer = self._others.producer(connection, self.settings)
        try:
            producer.send_many(messages, retries)
        except BrokerError as error:
            left = frozenset(error.unconfirmed)
            self._record_queued([message for message in messages if message.task_id not in left])
            raise
        self._record_queued(messages)

    def _as_new_life(self, message: TaskMessage) -> TaskMessage:
        """The message, sent later than whatever is recorded under its id, however the clocks of the senders differ."""
        try:
            held = None if self.backend is None else self.backend.get(message.task_id)
        except StoreError:
            return message  # it is sent all the same; that it could not be recorded is logged then
        if held is None or held.enqueued_at is None or sent_later(message.enqueued_at, held.enqueued_at):
            return message
        return replace(message, enqueued_at=held.enqueued_at + timedelta(microseconds=1))

    def result(self, task_id: str) -> AsyncResult[Any]:
        """The result of a task that was sent earlier, by id; raises :class:`~stem_kombu.errors.ConfigurationError` for what is no
        id."""
        from stem_kombu.result import AsyncResult
        from stem_kombu.revocation import checked_task_id

        return AsyncResult(
            checked_task_id(task_id), self._backend, self
        )  # not opened here, which may be the thread of an event loop

    def _record_queued(self, messages: Sequence[TaskMessage]) -> None:
        """After the broker has the messages, so that no state claims what was never sent; a late write is refused by the
        backend's rule when a worker was quicker. A backend that is down doesn't unsend a task: it is logged."""
        backend = self.backend
        if backend is None or not messages:
            return
        records = [
            TaskRecord(m.task_id, m.name, TaskState.QUEUED, m.attempt, m.queue, enqueued_at=m.enqueued_at)
            for m in messages
        ]
        try:
            backend.record(records)
        except StoreError as error:
            import logging

            first, more = records[0].task_id, f" and {len(records) - 1} more" if len(records) > 1 else ""
            logging.getLogger(__name__).warning(
                "task %s%s was sent but its state could not be recorded: %s",
                first,
                more,
                error,
                extra={"task_id": first},
            )

    # -- what it stands on --------------------------------------------------------------------------------------------

    @property
    def backend(self) -> Backend | None:
        """The result backend, opened on first use; ``None`` when none is configured. Raises
        :class:`~stem_kombu.errors.ConfigurationError` for a URL that can hold no states."""
        if self._backend is None and self.settings.backend is not None:
            from stem_kombu.backends.registry import open_backend

            with self._lock:
                if self._backend is None:
                    source = self.settings.backend
                    self._backend = open_backend(source.value, name=source.name, tls=self.settings.tls)
        return self._backend

    @property
    def producer(self) -> TaskProducer | EagerBroker:
        """What sends messages, opened on first use and safe to use from several threads."""
        if self._producer is None:
            from stem_kombu.transports.confirms import asks_for_confirms
            from stem_kombu.transports.other_brokers import OtherBrokers
            from stem_kombu.transports.producer import open_producer

            with self._lock:
                if self._producer is None:
                    self._others = OtherBrokers()
                    self._producer = open_producer(self.settings, confirms=asks_for_confirms(self.settings))
        return self._producer

    @property
    def control(self) -> ControlClient:
        """What asks and revokes, made on first use and safe to use from several threads. Raises
        :class:`~stem_kombu.errors.ConfigurationError` for settings that can't be used."""
        if self._control is None:
            from stem_kombu.control.client.client import ControlClient

            with self._lock:
                if self._control is None:
                    self._control = ControlClient(self)
        return self._control

    @contextmanager
    def eager(self) -> Iterator[None]:
        """For tests: within the block each task that is sent runs before ``delay()`` returns, in this process, with its
        retries and without their waits. Its result is kept in memory. Control commands go where they go otherwise.

        A task that the application does not have raises :class:`~stem_kombu.errors.TaskNotRegistered` where it is sent.
        """
        from stem_kombu.eager import EagerBroker

        broker = EagerBroker(self.registry, self.settings.default_max_retries)
        with self._lock:
            held = self._producer, self._backend, self._others
            self._producer, self._backend, self._others = broker, broker.backend, None
        try:
            yield
        finally:
            with self._lock:
                self._producer, self._backend, self._others = held

    def open_revoke_store(self) -> RevokeStore:
        """A new handle on the revoke store that CLI and workers resolve to; the caller closes it. Raises
        :class:`~stem_kombu.errors.ConfigurationError` for a URL that can hold no revocations; nothing is connected yet."""
        from stem_kombu.stores.registry import open_revoke_store

        source = self.settings.revoke_store
        return open_revoke_store(source.value, name=source.name, tls=self.settings.tls)

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`."""
        self._lock = threading.RLock()

    def _named(self, given: dict[str, Any]) -> dict[str, Any]:
        named, queues = dict(given), given.get("queues")
        if queues is not None and not isinstance(queues, str):
            named["queues"] = tuple(self.declare(one, "Stem(queues=…)") for one in listed(queues, "queues of Stem(…)"))
        if given.get("default_queue") is not None:
            named["default_queue"] = self.declare(given["default_queue"], "Stem(default_queue=…)")
        return named

    def close(self) -> None:
        """Let producer, backend and control client go; they are opened again when needed."""
        with self._lock:
            held = self._producer, self._others, self._backend, self._control
            self._producer = self._others = self._backend = self._control = None
        for one in held:
            if one is not None:
                one.close()

    def __repr__(self) -> str:
        return f"<Stem {self.name!r}: {len(self.registry)} tasks>"


def load(app: Stem) -> None:
    """Import the modules of an application that a worker is to run; raises :class:`ConfigurationError` for what is none."""
    if not isinstance(getattr(app, "registry", None), TaskRegistry):
        raise ConfigurationError(
            f"a worker runs a stem_kombu.Stem, not {shown(app)} ({type(app).__name__})",
            hint="give it the application itself; a Celery application is controlled by stem_kombu.celery.install(app)",
        )
    app.load()


@lru_cache(maxsize=1)
def _result_type() -> type[AsyncResult[object]]:
    """Imported with the first task that is sent; to import it by each of them takes longer than to make one."""
    from stem_kombu.result import AsyncResult

    return AsyncResult
