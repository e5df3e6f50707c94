"""A zoo of endings: what handlers raise, return and do to their process. Each runs inline, as a coroutine and in an isolate.

``python -m tests.worker.zoo '{"broker": …, "backend": …}'`` is a worker of it with one slot of each kind.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import ctypes
import gc
import io
import json
import logging
import os
import resource
import signal
import sys
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

from stem_kombu.app import Stem
from stem_kombu.context import Retry, TaskContext, TaskRevoked
from stem_kombu.errors import LeaseLost, SoftTimeLimitExceeded, TimeLimitExceeded
from stem_kombu.revocation import Revocation
from stem_kombu.settings import Settings
from stem_kombu.worker.worker import Worker

app = Stem("zoo", broker="memory://zoo")
#: How each is expected to end: ``succeeded``, ``failed``, ``cancelled``, or ``ended`` for any of them.
EXPECTED: dict[str, str] = {}
#: Those that end their process, or break it for all that run there: of isolates only.
ISOLATES: set[str] = set()
Handler = Callable[[TaskContext], Any]


def ending(expected: str = "failed", *, isolate: bool = False) -> Callable[[Handler], Handler]:
    """Register under ``inline.NAME``, ``coroutine.NAME`` and ``isolate.NAME``; only the last where ``isolate``."""

    def register(function: Handler) -> Handler:
        name = function.__name__
        assert name not in EXPECTED, name
        EXPECTED[name] = expected
        app.task(f"isolate.{name}", isolate=True, max_retries=0)(function)
        if isolate:
            ISOLATES.add(name)
            return function
        app.task(f"inline.{name}", max_retries=0)(function)

        if asyncio.iscoroutinefunction(function):
            app.task(f"coroutine.{name}", max_retries=0)(function)
            return function

        async def coroutine(ctx: TaskContext) -> Any:
            return function(ctx)

        coroutine.__qualname__ = f"coroutine.{name}"
        app.task(f"coroutine.{name}", max_retries=0)(coroutine)
        return function

    return register


def raises(name: str, make: Callable[[], BaseException], expected: str = "failed") -> None:
    """An ending that raises what ``make()`` makes."""

    def handler(ctx: TaskContext) -> None:
        raise make()

    handler.__name__ = handler.__qualname__ = f"raises_{name}"
    ending(expected)(handler)


def returns(name: str, make: Callable[[], Any], expected: str = "failed") -> None:
    """An ending that returns what ``make()`` makes."""

    def handler(ctx: TaskContext) -> Any:
        return make()

    handler.__name__ = handler.__qualname__ = f"returns_{name}"
    ending(expected)(handler)


def _after(ctx: TaskContext) -> int:
    """What runs in the slot afterwards."""
    return 1


for _mode in ("inline", "isolate"):
    app.task(f"{_mode}.after", isolate=_mode == "isolate", max_retries=0)(_after)


@app.task("coroutine.after", max_retries=0)
async def after(ctx: TaskContext) -> int:
    await asyncio.sleep(0)
    return 1


# -- exceptions that can't be looked at ----------------------------------------------------------------------------------


class NoText(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class NoTextBase(BaseException):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    def __repr__(self) -> str:
        raise SystemExit(3)


class ExitNoText(SystemExit):
    def __str__(self) -> str:
        sys.exit("in its text")


class TextIsNoText(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


class NoClass(Exception):
    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    @__class__.setter
    def __class__(self, _: Any) -> None: ...


class LiesAboutItsClass(Exception):
    @property
    def __class__(self) -> Any:
        return TaskRevoked

    @__class__.setter
    def __class__(self, _: Any) -> None: ...


class NoAttributes(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise MemoryError(name)


class Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")

    def __instancecheck__(cls, _: object) -> bool:
        raise RuntimeError("no instances")

    def __subclasscheck__(cls, _: type) -> bool:
        raise RuntimeError("no subclasses")


class NamelessClass(Exception, metaclass=Meta):
    pass


class OddText(str):
    def __len__(self) -> int:
        raise RuntimeError("no length")

    def encode(self, *_: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("no bytes")


class TextOfAnotherKind(Exception):
    def __str__(self) -> str:
        return OddText("odd")


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        raise TypeError("never")


class BrokenNotes(Exception):
    @property
    def __notes__(self) -> Any:
        raise ValueError("no notes")


class BrokenCause(Exception):
    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise ValueError("no cause")


def chained(depth: int) -> BaseException:
    error: BaseException = ValueError("first")
    for number in range(depth):
        later = ValueError(str(number))
        later.__context__ = error
        error = later
    return error


def circle() -> BaseException:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    return one


def with_odd_argument() -> BaseException:
    error = ValueError(NoText(), object())
    error.args = (NoText(), [error])
    return error


for _name, _make in {
    "an_exception_without_text": NoText,
    "a_base_exception_without_text": NoTextBase,
    "an_exit_without_text": ExitNoText,
    "a_text_that_is_none": TextIsNoText,
    "no_class": NoClass,
    "a_false_class": LiesAboutItsClass,
    "no_attributes": NoAttributes,
    "a_nameless_class": NamelessClass,
    "text_of_another_kind": TextOfAnotherKind,
    "what_cannot_be_pickled": lambda: Unpicklable(1, 2),
    "broken_notes": BrokenNotes,
    "a_broken_cause": BrokenCause,
    "odd_arguments": with_odd_argument,
    "a_huge_text": lambda: ValueError("x" * 20_000_000),
    "half_surrogates": lambda: ValueError("\ud800 and \udfff"),
    "nul": lambda: ValueError("a\0b"),
    "text_of_every_kind": lambda: ValueError("".join(map(chr, range(0, 0x3000, 7)))),
    "a_long_chain": lambda: chained(3000),
    "a_circle": circle,
    "an_odd_name": lambda: type("Öl\ud800 \0", (Exception,), {})(),
    "a_huge_name": lambda: type("N" * 1_000_000, (Exception,), {})(),
    "system_exit": lambda: SystemExit(0),
    "system_exit_with_text": lambda: SystemExit("bye"),
    "system_exit_with_an_object": lambda: SystemExit(object()),
    "keyboard_interrupt": KeyboardInterrupt,
    "generator_exit": GeneratorExit,
    "cancelled_error": asyncio.CancelledError,
    "stop_iteration": lambda: StopIteration(7),
    "stop_async_iteration": StopAsyncIteration,
    "memory_error": MemoryError,
    "recursion_error": RecursionError,
    "a_bare_base_exception": lambda: BaseException("bare"),
    "broken_pipe": lambda: BrokenPipeError(32, "not ours"),
    "connection_reset": lambda: ConnectionResetError(104, "not ours"),
    "blocking_io": lambda: BlockingIOError(11, "not ours"),
    "timeout": lambda: TimeoutError("not ours"),
    "lease_lost": lambda: LeaseLost("not ours"),
    "time_limit": lambda: TimeLimitExceeded("not ours"),
    "soft_time_limit": lambda: SoftTimeLimitExceeded("not ours"),
    "unicode_error": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
    "syntax_error": lambda: SyntaxError("no", ("f.py", 10**9, -5, None)),
    "key_error_of_surrogates": lambda: KeyError("\ud800"),
}.items():
    raises(_name, _make)

if sys.version_info >= (3, 11):
    raises("a_group", lambda: BaseExceptionGroup("several", [NoText(), KeyboardInterrupt()]))  # noqa: F821

    def deep_group() -> BaseException:
        error: Exception = NoText()
        for _ in range(500):
            error = ExceptionGroup("again", [error])  # noqa: F821
        return error

    raises("a_deep_group", deep_group)


# -- orders that nobody gave --------------------------------------------------------------------------------------------


class NoDetail(Retry):
    def __str__(self) -> str:
        return str(self.detail)  # type: ignore[attr-defined]


class NeverMade(Retry):
    def __init__(self) -> None: ...


class RetryAfter(Retry):
    def __init__(self, seconds: Any) -> None:
        super().__init__("later")
        self.countdown = seconds


class OwnRevoked(TaskRevoked):
    def __init__(self, revocation: Any = None) -> None:
        self.revocation = revocation


def revocation(**fields: Any) -> Revocation:
    plain = {"version": 1, "issued_at": datetime(2026, 1, 1, tzinfo=timezone.utc), **fields}
    return Revocation("zoo", "another", **plain)


for _name, _make in {
    "retry": lambda: Retry("no retries are left"),
    "retry_without_text": lambda: NoDetail("x"),
    "retry_never_made": NeverMade,
    "retry_after_a_span": lambda: RetryAfter(timedelta(minutes=5)),
    "retry_after_text": lambda: RetryAfter("5"),
    "retry_after_nan": lambda: RetryAfter(float("nan")),
    "retry_after_infinity": lambda: RetryAfter(float("inf")),
    "retry_after_ages": lambda: RetryAfter(1e12),
    "retry_after_longer": lambda: RetryAfter(10**400),
    "retry_after_an_object": lambda: RetryAfter(NoText()),
    "retry_before_now": lambda: RetryAfter(-5),
    "revoked_by_nobody": OwnRevoked,
    "revoked_by_an_object": lambda: OwnRevoked(object()),
    "revoked_by_something_unpicklable": lambda: OwnRevoked(revocation(reason=threading.Lock())),
}.items():
    raises(_name, _make)
raises("revoked", lambda: TaskRevoked(revocation()), "cancelled")


@ending()
def asks_for_an_absurd_retry(ctx: TaskContext) -> None:
    raise ctx.retry(countdown=10**400)


@ending()
def extends_its_lease_for_ever(ctx: TaskContext) -> None:
    ctx.extend_lease(float("inf"))


@ending()
def reports_what_is_no_json(ctx: TaskContext) -> None:
    ctx.progress(0.5, what=object())


@ending()
def reports_beyond_the_end(ctx: TaskContext) -> None:
    ctx.progress(float("nan"))


# -- results ------------------------------------------------------------------------------------------------------------


class Lazy(dict):  # type: ignore[type-arg]
    """A mapping that is made while it is encoded."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(a=1)
        self._error = error

    def items(self) -> Any:
        raise self._error


class LazyText(str):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class Claims:
    """Says that it is a list."""

    @property
    def __class__(self) -> Any:
        return list

    @__class__.setter
    def __class__(self, _: Any) -> None: ...


def nested(depth: int, wrap: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    value: Any = wrap(None)
    for _ in range(depth - 1):
        value = wrap(value)
    return value


def cycle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


for _name, _result, _expected in [
    ("nothing", lambda: None, "succeeded"),
    ("bytes", lambda: b"bytes", "failed"),
    ("an_object", object, "failed"),
    ("nan", lambda: float("nan"), "failed"),
    ("infinity_within", lambda: {"a": [float("inf")]}, "failed"),
    ("a_set", lambda: {1, 2}, "failed"),
    ("a_generator", lambda: (n for n in range(3)), "failed"),
    ("a_decimal", lambda: Decimal("1.5"), "failed"),
    ("an_exception", lambda: NoText("x"), "failed"),
    ("a_class", lambda: NamelessClass, "failed"),
    ("a_lock", threading.Lock, "failed"),
    ("a_file", lambda: io.StringIO("x"), "failed"),
    ("nested_200", lambda: nested(200), "succeeded"),
    ("nested_201", lambda: nested(201), "failed"),
    ("nested_900", lambda: nested(900), "failed"),
    ("nested_objects_900", lambda: nested(900, lambda inner: {"a": inner}), "failed"),
    ("nested_100000", lambda: nested(100_000), "failed"),
    ("many_brackets", lambda: [[]] * 50_000, "succeeded"),
    ("a_cycle", cycle, "failed"),
    ("17_megabytes", lambda: "x" * (17 * 1024 * 1024), "failed"),
    ("2_megabytes", lambda: "x" * (2 * 1024 * 1024), "succeeded"),
    ("half_surrogates", lambda: {"a": "\ud800"}, "succeeded"),
    ("nul", lambda: "a\0b", "succeeded"),
    ("a_tuple", lambda: (1, (2, 3)), "succeeded"),
    ("keys_of_every_kind", lambda: {None: 1, True: 2, 1.5: 3}, "succeeded"),
    ("keys_that_are_tuples", lambda: {(1, 2): 3}, "failed"),
    ("a_huge_number", lambda: 10**4000, "succeeded"),
    ("a_number_too_long_to_write", lambda: 10**6000, "failed"),
    ("what_claims_to_be_a_list", Claims, "failed"),
    ("lazy_text", lambda: LazyText("x"), "succeeded"),
    ("lazy_error", lambda: Lazy(ValueError("x")), "failed"),
    ("lazy_exit", lambda: Lazy(SystemExit(1)), "failed"),
    ("lazy_no_text", lambda: Lazy(NoTextBase()), "failed"),
    ("lazy_interrupt", lambda: Lazy(KeyboardInterrupt()), "failed"),
    ("lazy_cancel", lambda: Lazy(asyncio.CancelledError()), "failed"),
    ("lazy_retry", lambda: Lazy(RetryAfter("x")), "failed"),
    ("lazy_revoked", lambda: Lazy(TaskRevoked(revocation())), "cancelled"),
    ("not_implemented", lambda: NotImplemented, "failed"),
    ("a_coroutine_function", lambda: after, "failed"),
]:
    returns(_name, _result, _expected)


# -- the interpreter ----------------------------------------------------------------------------------------------------


@ending()
def calls_itself(ctx: TaskContext) -> None:
    calls_itself(ctx)


@ending("succeeded")
def lowers_the_recursion_limit(ctx: TaskContext) -> int:
    depth = 1
    frame: Any = sys._getframe()
    while (frame := frame.f_back) is not None:
        depth += 1
    for room in range(2, 60):
        with contextlib.suppress(RecursionError):
            sys.setrecursionlimit(depth + room)
            break
    return 1


@ending("ended")
def fails_in_its_trace_function(ctx: TaskContext) -> int:
    def trace(*_: Any) -> Any:
        raise SystemExit("trace")

    sys.settrace(trace)
    return len([1])


@ending("ended")
def fails_in_its_profile_function(ctx: TaskContext) -> int:
    def profile(*_: Any) -> Any:
        raise ValueError("profile")

    sys.setprofile(profile)
    return len([1])


@ending("succeeded")
def leaves_a_collector_callback_that_fails(ctx: TaskContext) -> int:
    def callback(*_: Any) -> None:
        gc.callbacks.remove(callback)
        raise ValueError("collected")

    gc.callbacks.append(callback)
    gc.collect()
    return 1


@ending("succeeded")
def leaves_a_finalizer_that_fails(ctx: TaskContext) -> int:
    class Falls:
        def __del__(self) -> None:
            raise SystemExit(5)

    held = [Falls()]
    held.append(held)  # type: ignore[arg-type]
    weakref.finalize(Falls, lambda: 1 / 0)
    return 1


@ending("succeeded")
def takes_stdout_away(ctx: TaskContext) -> int:
    kept = sys.stdout
    sys.stdout = None  # type: ignore[assignment]
    threading.Timer(0.2, setattr, (sys, "stdout", kept)).start()
    return 1


@ending("succeeded")
def makes_warnings_errors(ctx: TaskContext) -> int:
    warnings.simplefilter("error")
    threading.Timer(0.2, warnings.resetwarnings).start()
    return 1


@ending()
def warns_as_an_error(ctx: TaskContext) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn("an error", stacklevel=1)


@ending("succeeded")
def leaves_a_thread(ctx: TaskContext) -> int:
    threading.Thread(target=threading.Event().wait, args=(2.0,), daemon=True).start()
    return 1


@ending("succeeded")
def leaves_a_thread_that_exits(ctx: TaskContext) -> int:
    threading.Thread(target=sys.exit, args=(1,), daemon=True).start()
    return 1


@ending("ended")
def sets_an_exception_off_in_its_thread(ctx: TaskContext) -> int:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), ctypes.py_object(SystemExit))
    return 1


@ending("succeeded")
def changes_the_folder_to_one_that_goes(ctx: TaskContext) -> int:
    before, folder = Path.cwd(), Path(tempfile.mkdtemp())
    os.chdir(folder)
    folder.rmdir()
    threading.Timer(0.2, os.chdir, (before,)).start()
    return 1


@ending("succeeded")
def breaks_the_logging(ctx: TaskContext) -> int:
    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise ValueError("no log")

    broken = Broken()
    logger = logging.getLogger("stem_kombu.worker.task_lifecycle")
    logger.addFilter(broken)
    threading.Timer(0.2, logger.removeFilter, (broken,)).start()
    return 1


@ending()
def breaks_the_logging_and_fails(ctx: TaskContext) -> int:
    breaks_the_logging(ctx)
    raise ValueError("and fails")


@ending("succeeded")
def reads_itself_into_a_generator(ctx: TaskContext) -> int:
    def stuck() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise SystemExit("closed")

    next(stuck())
    return 1


# -- copies of the process ------------------------------------------------------------------------------------------------


def waited(pid: int, deed: Callable[[], Any]) -> Any:
    """In the copy the deed; in the original its exit status."""
    return deed() if pid == 0 else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@ending("succeeded")
def forks_and_returns(ctx: TaskContext) -> Any:
    return waited(os.fork(), lambda: "the copy's result")


@ending("succeeded")
def forks_and_exits(ctx: TaskContext) -> Any:
    return waited(os.fork(), lambda: sys.exit(0))


@ending("succeeded")
def forks_and_exits_with_text(ctx: TaskContext) -> Any:
    return waited(os.fork(), lambda: sys.exit("the copy is done"))


@ending("succeeded")
def forks_and_fails(ctx: TaskContext) -> Any:
    def deed() -> None:
        raise NoText

    return waited(os.fork(), deed)


@ending("succeeded")
def forks_and_retries(ctx: TaskContext) -> Any:
    def deed() -> None:
        raise Retry("in the copy")

    return waited(os.fork(), deed)


@ending("succeeded")
def forks_and_leaves(ctx: TaskContext) -> Any:
    return waited(os.fork(), lambda: os._exit(0))


@ending("succeeded")
def forks_and_becomes_another_program(ctx: TaskContext) -> Any:
    return waited(os.fork(), lambda: os.execv("/bin/true", ["true"]))  # noqa: S606 - what is tested


@ending("succeeded")
def forks_and_checkpoints(ctx: TaskContext) -> Any:
    def deed() -> int:
        for _ in range(50):
            ctx.heartbeat()
            ctx.progress(0.5, copy=True)
        ctx.extend_lease(5)
        return 1

    return waited(os.fork(), deed)


@ending("succeeded")
def forks_twice(ctx: TaskContext) -> Any:
    return waited(os.fork(), lambda: waited(os.fork(), lambda: None))


@ending("succeeded")
def forks_and_dies(ctx: TaskContext) -> Any:
    return waited(os.fork(), lambda: os.kill(os.getpid(), signal.SIGKILL))


@ending("succeeded")
def leaves_a_daemon(ctx: TaskContext) -> int:
    def daemon() -> None:
        if os.fork():
            os._exit(0)
        os.setsid()
        signal.alarm(2)
        signal.pause()
        os._exit(0)

    waited(os.fork(), daemon)
    return 1


# -- what breaks its process, which an isolate has to itself --------------------------------------------------------------


@ending(isolate=True)
def exits_at_once(ctx: TaskContext) -> None:
    os._exit(0)


@ending(isolate=True)
def kills_itself(ctx: TaskContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@ending(isolate=True)
def aborts(ctx: TaskContext) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()


@ending(isolate=True)
def reads_address_zero(ctx: TaskContext) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


@ending(isolate=True)
def becomes_another_program(ctx: TaskContext) -> None:
    os.execv("/bin/true", ["true"])  # noqa: S606 - what is tested


@ending(isolate=True)
def closes_every_descriptor(ctx: TaskContext) -> int:
    os.closerange(0, 4096)
    return 1


@ending("ended", isolate=True)
def closes_stdio(ctx: TaskContext) -> int:
    os.closerange(0, 3)
    return 1


@ending("ended", isolate=True)
def closes_stdio_objects(ctx: TaskContext) -> int:
    sys.stdout.close()
    sys.stderr.close()
    return 1


@ending("ended", isolate=True)
def allows_no_descriptors(ctx: TaskContext) -> int:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    return 1


@ending("succeeded", isolate=True)
def changes_signal_handlers(ctx: TaskContext) -> int:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    return 1


@ending("ended", isolate=True)  # a busy machine may let it fire before the child has reported
def leaves_an_alarm(ctx: TaskContext) -> int:
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    return 1


@ending("ended", isolate=True)
def leaves_an_alarm_that_fails(ctx: TaskContext) -> int:
    def fails(*_: Any) -> None:
        raise SystemExit("alarm")

    signal.signal(signal.SIGALRM, fails)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    return 1


@ending("ended", isolate=True)
def changes_the_builtins(ctx: TaskContext) -> int:
    def fails(*_: Any, **__: Any) -> Any:
        raise ValueError("changed")

    builtins.len = fails
    json.dumps = fails
    builtins.print = fails
    return 1


@ending("ended", isolate=True)
def allows_no_memory(ctx: TaskContext) -> Any:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))
    return "x" * (1 << 24)


@ending("ended", isolate=True)
def calls_itself_without_limit(ctx: TaskContext) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(10**9)

    class Deep:
        def __repr__(self) -> str:
            return repr(self)

    repr(Deep())


@ending("ended", isolate=True)
def writes_into_its_pipe(ctx: TaskContext) -> int:
    for number in range(3, 64):
        with contextlib.suppress(OSError):
            if "socket" in str(Path(f"/proc/self/fd/{number}").readlink()):
                os.write(number, b"\xff" * 64)
    return 1


# -- the event loop -------------------------------------------------------------------------------------------------------
# Under ``inline`` and ``isolate`` these run as coroutines too: on the worker's loop and on the child's.


@ending("ended")
async def stops_the_loop(ctx: TaskContext) -> int:
    asyncio.get_running_loop().stop()
    return 1


@ending("ended")
async def stops_the_loop_and_waits(ctx: TaskContext) -> int:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)
    return 1


@ending("ended")
async def closes_the_loop(ctx: TaskContext) -> int:
    loop: Any = asyncio.get_running_loop()
    loop._thread_id = None  # or it would refuse
    loop.close()
    await asyncio.sleep(30)
    return 1


@ending()
async def runs_a_loop_in_the_loop(ctx: TaskContext) -> Any:
    coroutine = asyncio.sleep(0)
    try:
        return asyncio.run(coroutine)
    finally:
        coroutine.close()


@ending("ended")
async def cancels_itself(ctx: TaskContext) -> int:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    return 1


@ending()
async def cancels_itself_and_waits(ctx: TaskContext) -> int:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(30)
    return 1


@ending("ended")
async def cancels_every_task(ctx: TaskContext) -> int:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(0.01)
    return 1


@ending("succeeded")
async def swallows_its_cancellation(ctx: TaskContext) -> int:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(30)
    return 1


@ending("ended")
async def leaves_a_task_that_exits(ctx: TaskContext) -> int:
    async def leaves() -> None:
        sys.exit(3)

    task = asyncio.create_task(leaves())
    await asyncio.sleep(0.01)
    return 1 if task else 0


@ending("succeeded")
async def leaves_a_callback_that_fails(ctx: TaskContext) -> int:
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    return 1


@ending("ended")
async def leaves_a_callback_that_exits(ctx: TaskContext) -> int:
    asyncio.get_running_loop().call_soon(sys.exit, 4)
    return 1


@ending("ended")
async def breaks_the_exception_handler(ctx: TaskContext) -> int:
    loop = asyncio.get_running_loop()

    def handler(*_: Any) -> None:
        loop.set_exception_handler(None)
        raise SystemExit("handler")

    loop.set_exception_handler(handler)
    loop.call_soon(lambda: 1 / 0)
    await asyncio.sleep(0.01)
    return 1


@ending("ended")
async def breaks_the_task_factory(ctx: TaskContext) -> int:
    def factory(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no tasks")

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    loop.call_soon(loop.set_task_factory, None)
    return 1


@ending("succeeded")
async def leaves_a_task(ctx: TaskContext) -> int:
    leaves_a_task.left = asyncio.create_task(asyncio.sleep(30))  # type: ignore[attr-defined]
    return 1


@ending()
async def awaits_what_fails(ctx: TaskContext) -> None:
    async def fails() -> None:
        raise NoTextBase

    await asyncio.gather(fails(), asyncio.sleep(30))


@ending("succeeded")
async def forks_in_the_loop(ctx: TaskContext) -> Any:
    pid = os.fork()
    if pid == 0:
        await asyncio.sleep(0)
        return "the copy's result"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@ending("succeeded")
async def unsets_the_loop(ctx: TaskContext) -> int:
    asyncio.set_event_loop(None)
    return 1


@ending("failed")
async def returns_an_awaitable(ctx: TaskContext) -> Any:
    return asyncio.get_running_loop().create_future()


def main(argument: str) -> None:
    options = json.loads(argument)
    app.configure(Settings.from_env({}, broker=options["broker"], backend=options["backend"], sync_interval=5.0))
    logging.basicConfig(level=logging.INFO)
    worker = Worker(app, name="zoo", concurrency=1, inline_slots=1)
    worker.run(on_ready=lambda _: os.write(1, b"ready\n"))


if __name__ == "__main__":
    # Not as __main__: the children import the module by its name.
    from tests.worker import zoo

    zoo.main(sys.argv[1])
