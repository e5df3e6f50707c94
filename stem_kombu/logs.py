"""One logging set-up for a worker and its children: format, level, and the task on each record.

A worker inside another program leaves that process's logging alone; its children, which are processes of their own, log by
:meth:`LogSetup.of_this_process`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stem_kombu.clock import from_epoch, isoformat
from stem_kombu.context import running_context
from stem_kombu.errors import ConfigurationError

FORMATS = ("text", "json")
#: What every record has, ``None`` outside of a task.
FIELDS = ("task_id", "task_name", "attempt", "worker")
#: Libraries whose debug lines say nothing about tasks: ``-l debug`` speaks of Stem and of the application.
_DRIVERS = ("amqp", "kombu", "redis", "billiard", "asyncio", "celery", "boto3", "botocore", "urllib3")
_TEXT = "%(asctime)s %(levelname)s %(name)s%(in_task)s: %(message)s"
#: Attributes of a record that are not its extra fields.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "in_task", "taskName", *FIELDS}


@dataclass(frozen=True, slots=True)
class LogSetup:
    """``level`` is a name or number of :mod:`logging`, ``format`` is ``text`` or ``json``; ``config`` is a dictionary for
    :func:`logging.config.dictConfig` and replaces both. ``worker`` is the worker's id."""

    level: str | int = "INFO"
    format: str = "text"
    config: Mapping[str, object] | None = None
    worker: str | None = None

    @classmethod
    def of_this_process(cls, worker: str | None = None) -> LogSetup:
        """For the children of a worker inside another program: text, from the level of that process's root logger on."""
        return cls(logging.getLogger().getEffectiveLevel(), worker=worker)

    @property
    def level_name(self) -> str:
        """The level as commands write it: ``debug``."""
        level = self.level if isinstance(self.level, str) else logging.getLevelName(self.level)
        return str(level).lower()

    def apply(self, hooks: Sequence[Callable[[LogSetup], object]] = ()) -> None:
        """Set up this process's logging by the application's hooks, else by ``config``, else by level and format.

        Without hooks and ``config``, handlers that the application has given to the root logger stay, with their format and
        level. Raises :class:`~stem_kombu.errors.ConfigurationError` for a ``config`` that logging refuses.
        """
        root = logging.getLogger()
        if hooks:
            for hook in hooks:
                hook(self)
        elif self.config is not None:
            from logging.config import dictConfig  # brings servers and handlers that most processes never use

            try:
                # Loggers that modules have made by now are not meant by a configuration that does not name them.
                dictConfig({"disable_existing_loggers": False, **self.config})
            except (ValueError, TypeError, AttributeError, ImportError) as error:
                cause = f": {error.__cause__}" if error.__cause__ else ""
                raise ConfigurationError(f"STEM_LOG_CONFIG: logging refuses it: {error}{cause}") from error
        elif not root.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(JsonFormatter() if self.format == "json" else TextFormatter(_TEXT))
            root.addHandler(handler)
            root.setLevel(self.level)
            if root.level <= logging.DEBUG:
                for name in _DRIVERS:
                    logging.getLogger(name).setLevel(logging.INFO)
        name_worker(self.worker)


class LogLevels:
    """Levels that loggers of this process have for a while."""

    def __init__(self) -> None:
        #: By logger, the level that comes back.
        self._own: dict[str, int] = {}

    def set(self, levels: Mapping[str, str]) -> None:
        """Give these loggers (empty: the root) these levels, and all others that had one from here their own again."""
        if levels.get("") == "debug":
            levels = {**dict.fromkeys(_DRIVERS, "info"), **levels}
        for name in self._own.keys() - levels.keys():
            logging.getLogger(name or None).setLevel(self._own.pop(name))
        for name, level in levels.items():
            logger = logging.getLogger(name or None)
            self._own.setdefault(name, logger.level)
            logger.setLevel(level.upper())


def name_worker(worker: str | None) -> None:
    """Have the handlers of this process give each record that worker's id, and the fields of the task that runs."""
    fields = TaskFields(worker)
    for one in _all_handlers():
        one.filters = [held for held in one.filters if not isinstance(held, TaskFields)]
        one.addFilter(fields)


def read_config(path: str) -> dict[str, object]:
    """The JSON object in that file, for :attr:`LogSetup.config`; raises :class:`~stem_kombu.errors.ConfigurationError`."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"STEM_LOG_CONFIG: {path!r} can't be read as JSON: {error}",
            hint="a JSON object as logging's dictConfig takes it",
        ) from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"STEM_LOG_CONFIG: {path!r} holds no JSON object", hint='begin with {"version": 1, …}')
    return found


class TaskFields(logging.Filter):
    """Gives each record the fields of :data:`FIELDS` that it does not have: of the task that runs here, and the worker.

    A filter of handlers and not of the record factory, so that ``extra={"task_id": …}`` stays allowed.
    """

    def __init__(self, worker: str | None = None) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        held = vars(record)
        if held.get("task_id") and held.get("worker"):  # a line of the worker about a task: it has all of them
            return True
        context = running_context()
        record.worker = held.get("worker") or self._worker
        record.task_id = held.get("task_id") or (None if context is None else context.task_id)
        record.task_name = held.get("task_name") or (None if context is None else context.name)
        record.attempt = held.get("attempt") or (None if context is None else context.attempt)
        return True


class TextFormatter(logging.Formatter):
    """``TIME LEVEL LOGGER [NAME ID attempt N]: MESSAGE``; the brackets only in a task, and not where the message begins with
    its task."""

    #: The last second that was written, and its text: lines come by the hundred in one.
    _second: tuple[int, str] = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        name, task_id = getattr(record, "task_name", None), getattr(record, "task_id", None)
        task = f" [{name} {task_id} attempt {getattr(record, 'attempt', None)}]"
        record.in_task = "" if name is None or record.getMessage().startswith(f"task {task_id} ") else task
        return super().format(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # the base class calls it so
        second, text = self._second
        if second != int(record.created):
            second = int(record.created)
            text = time.strftime(self.default_time_format, self.converter(second))
            self._second = second, text
        return self.default_msec_format % (text, record.msecs) if self.default_msec_format else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``message``, ``pid``, :data:`FIELDS`, ``exception``
    where there is one, and each extra field."""

    def format(self, record: logging.LogRecord) -> str:
        held = vars(record)
        line: dict[str, object] = {
            "time": isoformat(from_epoch(record.created)),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
            **{name: held.get(name) for name in FIELDS},
            **{name: value for name, value in held.items() if name not in _PLAIN},
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        elif record.exc_text:  # of a handler that ran in another process
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        return _ENCODE(line)


#: Made once: ``json.dumps`` with arguments makes an encoder for each line.
_ENCODE = json.JSONEncoder(default=str, ensure_ascii=False).encode


def _all_handlers() -> list[logging.Handler]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    found = {handler: None for one in loggers if isinstance(one, logging.Logger) for handler in one.handlers}
    return list(found)
