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


#: The first import of redis-py is cut short when its part sentinel is looked for; those before it stay loaded.
CUT_SHORT = """
    import importlib.abc, sys
    from stem_kombu.drivers.redis import RedisDatabase
    from stem_kombu.errors import StoreUnavailable


    class Interrupting(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "redis.sentinel":
                sys.meta_path.remove(self)
                raise KeyboardInterrupt


    sys.meta_path.insert(0, Interrupting())
    try:
        import redis
    except KeyboardInterrupt:
        print("cut short")
    try:
        RedisDatabase("redis://127.0.0.1:1/0").run(lambda client: client.ping())
    except StoreUnavailable:
        print("no server there")
"""

#: One thread has begun to import the package, and another one to look at the URL of sentinels.
SENTINELS = """
    import importlib.abc, importlib.machinery, sys, threading
    from stem_kombu.drivers.redis import RedisDatabase
    from stem_kombu.settings import TlsSettings
    from stem_kombu.transports.sentinels import by_sentinels
    from tests.waiting import eventually

    assert "redis" not in sys.modules
    begun, go_on, ended = threading.Event(), threading.Event(), []


    class HeldUp(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name != "redis" or begun.is_set():
                return None
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            spec.loader.create_module = self.create  # which Python calls without its global lock of imports
            return spec

        def create(self, spec):
            begun.set()
            assert go_on.wait(60)


    def tried(act):
        try:
            act()
            ended.append("well")
        except Exception as error:
            ended.append(repr(error))


    def waits_for_the_package():
        frame = sys._current_frames().get(second.ident)
        return frame is not None and frame.f_code.co_name == "acquire"


    sys.meta_path.insert(0, HeldUp())
    url = "sentinel://127.0.0.1:1/0"
    first = threading.Thread(target=tried, args=(lambda: RedisDatabase("redis://127.0.0.1:1/0"),))
    second = threading.Thread(target=tried, args=(lambda: by_sentinels(url, "URL", TlsSettings(), {"master_name": "m"}),))
    first.start()
    assert begun.wait(60)
    second.start()
    eventually(lambda: waits_for_the_package() or ended)
    go_on.set()
    first.join()
    second.join()
    print(*ended)
"""


def test_a_driver_whose_first_import_was_cut_short_is_whole_after_the_second(tmp_path: Path) -> None:
    done = run_program(CUT_SHORT, tmp_path)
    assert done.stdout == "cut short\nno server there\n", done.stdout + done.stderr


def test_the_url_of_sentinels_is_read_while_another_thread_imports_the_driver(tmp_path: Path) -> None:
    done = run_program(SENTINELS, tmp_path)
    assert done.stdout == "well well\n", done.stdout + done.stderr
