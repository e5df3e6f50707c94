"""Drivers are imported when they are needed, in whatever thread that is, while other threads may do the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.execution.programs import run_program

#: One thread is held up in the middle of importing the package, as a busy machine might, until the other wants it too.
PROGRAM = """
    import importlib.abc, sys, threading
    from stem_kombu.drivers.postgres import PostgresDatabase
    from stem_kombu.drivers.redis import RedisDatabase
    from tests.waiting import eventually

    package = sys.argv[1]
    assert package not in sys.modules
    in_the_middle, go_on, ended = threading.Event(), threading.Event(), []


    class HeldUp(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name.startswith(package + ".") and threading.current_thread() is first:
                in_the_middle.set()
                assert go_on.wait(60)
            return None


    def tried(act):
        try:
            act()
            ended.append("well")
        except Exception as error:
            ended.append(repr(error))


    def waits_for_an_import(thread):
        frame = sys._current_frames().get(thread.ident)
        return frame is not None and "importlib._bootstrap" in frame.f_code.co_filename


    sys.meta_path.insert(0, HeldUp())
    make = {
        "redis": lambda: RedisDatabase("redis://127.0.0.1:1/0"),
        "psycopg2": lambda: PostgresDatabase("postgresql://127.0.0.1:1/none", schema=""),
    }[package]
    first = threading.Thread(target=tried, args=(lambda: __import__(package),))
    second = threading.Thread(target=tried, args=(make,))
    first.start()
    assert in_the_middle.wait(60)
    second.start()
    eventually(lambda: waits_for_an_import(second) or ended)
    go_on.set()
    first.join()
    second.join()
    print(*ended)
"""


@pytest.mark.parametrize("package", ["redis", "psycopg2"])
def test_two_threads_that_need_a_driver_at_once_both_get_it(tmp_path: Path, package: str) -> None:
    done = run_program(PROGRAM, tmp_path, package)
    assert done.stdout == "well well\n", done.stdout + done.stderr
