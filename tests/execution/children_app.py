"""An application for the tests of a child's life: hooks, programs, processes, event loops."""

from __future__ import annotations

import asyncio
import atexit
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import billiard

from stem_kombu.app import Stem
from stem_kombu.context import TaskContext
from stem_kombu.testing.gates import Gate

app = Stem("children-tests")
_LOOPS: list[int] = []


def _note(folder: str, text: str) -> None:
    with (Path(folder) / "notes").open("a") as notes:
        notes.write(f"{text}\n")


@app.task("ends_by", isolate=True)
def ends_by(ctx: TaskContext, number: int) -> int | None:
    """The status of a program that was sent the signal, ``None`` when it took no notice."""
    program = subprocess.Popen(["sleep", "600"])
    program.send_signal(number)
    try:
        return program.wait(5)
    except subprocess.TimeoutExpired:
        program.kill()
        return None


@app.task("signals_of_a_program", isolate=True)
def signals_of_a_program(ctx: TaskContext) -> dict[str, str]:
    """Which signals a program ignores and blocks, as the system has it."""
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    return dict(line.split(":\t") for line in status.splitlines() if line.startswith("Sig"))


@app.task("terminates_processes", isolate=True)
def terminates_processes(ctx: TaskContext, library: str) -> list[Any]:
    module: Any = multiprocessing if library == "multiprocessing" else billiard
    process = module.get_context("fork").Process(target=time.sleep, args=(600,))
    process.start()
    process.terminate()
    process.join(10)
    with module.get_context("fork").Pool(2) as pool:
        squares = pool.map(_square, [1, 2, 3])
    return [process.exitcode, squares]


@app.task("uses_an_executor", isolate=True)
def uses_an_executor(ctx: TaskContext) -> list[int]:
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(_square, [1, 2, 3]))


def _square(number: int) -> int:
    return number * number


@app.task("starts_programs", isolate=True)
def starts_programs(ctx: TaskContext, folder: str, gate: str, forks: bool = False) -> None:
    """Two levels of programs, and on request a plain fork, whose ids are noted; then it waits at the gate."""
    script = 'sh -c "echo \\$\\$ >> notes; exec sleep 600" & echo $$ >> notes; wait'
    subprocess.Popen(["sh", "-c", script], cwd=folder)
    if forks and os.fork() == 0:
        _note(folder, str(os.getpid()))
        time.sleep(600)
    Gate(gate).reach()
    Gate(gate).wait_open()


@app.task("starts_a_session", isolate=True)
def starts_a_session(ctx: TaskContext) -> int:
    """A program that leaves the child's group."""
    return subprocess.Popen(["sleep", "600"], start_new_session=True).pid


@app.task("registers_at_exit", isolate=True)
def registers_at_exit(ctx: TaskContext, folder: str, hangs: bool = False) -> int:
    _NOTES.append(folder)
    atexit.register(_note, folder, "atexit")
    if hangs:
        atexit.register(time.sleep, 600)
    return os.getpid()


_NOTES: list[str] = []


@app.on_child_stop
def leaves() -> None:
    for folder in _NOTES:
        _note(folder, "child_stop")


@app.task("loop", isolate=True)
async def loop(ctx: TaskContext) -> tuple[int, int]:
    _LOOPS.append(id(asyncio.get_running_loop()))
    await asyncio.sleep(0)
    return os.getpid(), len(set(_LOOPS))


@app.task("itself", isolate=True)
def itself(ctx: TaskContext) -> list[object]:
    """What the process is to a program: its arguments, its folder, its name in log lines, and where it reads from."""
    name = logging.LogRecord("tests", logging.INFO, "", 0, "", (), None).processName
    return [sys.argv, str(Path.cwd()), name, os.fstat(0).st_rdev == os.stat(os.devnull).st_rdev, sys.stdin.read()]


@app.task("blocks_signals", isolate=True)
def leads(ctx: TaskContext) -> list[int]:
    return [os.getpid(), os.getpgrp(), os.getppid()]


@app.task("stacks", isolate=True)
def stacks(ctx: TaskContext) -> str:
    """It is sent every signal that is for its worker, and goes on."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    return "went on"
