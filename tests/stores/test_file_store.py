"""The file store when things go wrong: crashes, garbage, full disks, rewrites under the eyes of readers."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from stem_kombu import timeouts
from stem_kombu.clock import SystemClock
from stem_kombu.errors import StoreCorrupt, StoreUnavailable
from stem_kombu.revocation import RevocationDraft as Draft
from stem_kombu.stores import file_knowledge
from stem_kombu.stores.file import FileRevokeStore
from tests.waiting import eventually

NS = "shop"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "revokes.stem"


@pytest.fixture
def store(path: Path) -> FileRevokeStore:
    return FileRevokeStore(path)


@pytest.fixture
def rewrite_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_knowledge, "_MOST_USELESS", 4)


class Stopped(SystemClock):
    """A wall clock that is set by hand."""

    moment = datetime.fromisoformat("2026-01-31T12:00:00+00:00")

    def utcnow(self) -> datetime:
        return self.moment


def ids(store: FileRevokeStore) -> list[str]:
    return [record.task_id for record in store.load(NS)]


def test_a_line_is_the_record_as_json_so_that_people_can_read_it(store: FileRevokeStore, path: Path) -> None:
    (record,) = store.save(NS, [Draft("t1", terminate=True, reason="bad deploy")])

    header, line = path.read_text().splitlines()

    assert json.loads(header)["stem_revocations"] == 1
    fields = json.loads(line)
    assert len(fields.pop("crc")) == 8
    assert fields == {**record.to_record(), "supersedes": None}


def test_reading_an_absent_file_makes_no_file(store: FileRevokeStore, tmp_path: Path) -> None:
    assert ids(store) == []
    assert store.revision(NS) == 0
    assert store.prune(NS) == 0
    store.ping()

    assert list(tmp_path.iterdir()) == []


def test_an_idle_since_is_one_stat(store: FileRevokeStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (record,) = store.save(NS, [Draft("t1")])
    assert list(store.since(NS, record.version)) == []

    def no_open(*args: object, **kwargs: object) -> int:
        raise AssertionError(f"opened {args}")

    monkeypatch.setattr(os, "open", no_open)
    assert list(store.since(NS, record.version)) == []


@pytest.mark.parametrize("keep", [1, 5, 40, -1])
def test_g6_a_torn_last_line_is_ignored_and_repaired_by_the_next_writer(path: Path, keep: int) -> None:
    FileRevokeStore(path).save(NS, [Draft("whole")])
    size = path.stat().st_size
    FileRevokeStore(path).save(NS, [Draft("torn")])
    whole = path.read_bytes()
    path.write_bytes(whole[: size + keep] if keep > 0 else whole[:keep])

    store = FileRevokeStore(path)
    assert ids(store) == ["whole"]

    store.save(NS, [Draft("next")])
    assert ids(store) == ids(FileRevokeStore(path)) == ["whole", "next"]


def test_g6_a_torn_batch_is_ignored_as_a_whole(path: Path) -> None:
    FileRevokeStore(path).save(NS, [Draft("whole")])
    start = path.stat().st_size
    FileRevokeStore(path).save(NS, [Draft(f"t{number}", reason="x" * 300) for number in range(1000)])
    content = path.read_bytes()
    lines = content[start:].splitlines(keepends=True)

    # Cut at ends of lines, in the middle of one, and so that only the batch's last newline is missing.
    for kept in (lines[:1], lines[:400], [*lines[:400], lines[400][:50]], lines[:-1], [*lines[:-1], lines[-1][:-1]]):
        path.write_bytes(content[:start] + b"".join(kept))
        assert ids(FileRevokeStore(path)) == ["whole"]
        assert FileRevokeStore(path).revision(NS) == next(FileRevokeStore(path).load(NS)).version

    FileRevokeStore(path).save(NS, [Draft("next")])
    assert ids(FileRevokeStore(path)) == ["whole", "next"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"stem_revocations":1,"file":"0123'])
def test_g6_a_torn_first_write_is_an_empty_store(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    store = FileRevokeStore(path)
    assert ids(store) == []
    store.save(NS, [Draft("t")])

    assert ids(FileRevokeStore(path)) == ["t"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: b"garbage\n",
        lambda line: b"\n",
        lambda line: line.replace(b'"version":', b'"version":"x'),
        lambda line: b"\0" * (len(line) - 1) + b"\n",
        lambda line: line.replace(b'"issued_at":"2', b'"issued_at":"x'),
        lambda line: line[: len(line) // 2] + b"\n",
    ],
    ids=["garbage", "blank", "field", "zeros", "time", "half"],
)
def test_g6_g37_any_other_damage_is_set_aside_with_file_and_line(path: Path, damage: object) -> None:
    FileRevokeStore(path).save(NS, [Draft(f"t{number}") for number in range(5)])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = damage(lines[3])  # type: ignore[operator]
    path.write_bytes(b"".join(lines))
    store = FileRevokeStore(path)

    assert ids(store) == ["t0", "t1", "t3", "t4"]
    assert [record.task_id for record in store.since(NS, 0)] == ["t0", "t1", "t3", "t4"]
    assert [aside.place for aside in store.quarantine.of(NS)] == ["line 4"]

    FileRevokeStore(path).save(NS, [Draft("t3"), Draft("next")])
    assert ids(FileRevokeStore(path)) == ["t0", "t1", "t4", "t3", "next"]
    assert lines[3] in path.read_bytes()


@pytest.mark.parametrize("expiry", [b'"x"', b'"2026-11-3;T08:00:00Z"', b"7", b'"9999-12-31T23:59:59-23:59"', b""])
def test_g37_a_spoiled_expiry_in_a_line_without_checksum_stops_no_pruning(path: Path, expiry: bytes) -> None:
    """0.1.0 wrote lines without one. A worker prunes when it starts, and could not."""
    clock = Stopped()
    FileRevokeStore(path, clock=clock).save(
        NS, [Draft("ends", expires_in=60.0), Draft("spoiled", expires_in=60.0), Draft("t2")]
    )
    lines = path.read_bytes().splitlines(keepends=True)
    plain = re.sub(rb',"crc":"[0-9a-f]+"', b"", lines[2])
    lines[2] = re.sub(rb'"expires_at":"[^"]+"', b'"expires_at":' + expiry, plain)
    path.write_bytes(b"".join(lines))
    clock.moment += timedelta(seconds=120)
    store = FileRevokeStore(path, clock=clock)

    assert store.prune(NS) == 1
    assert ids(store) == ["t2"]
    assert [aside.place for aside in store.quarantine.of(NS)] == ["line 3"]
    assert lines[2] in path.read_bytes()


@pytest.mark.usefixtures("rewrite_early")
def test_g37_a_rewrite_keeps_the_lines_that_can_not_be_read(path: Path) -> None:
    FileRevokeStore(path).save(NS, [Draft("t0"), Draft("t1")])
    path.write_bytes(path.read_bytes().replace(b'"task_id":"t1"', b'"task_id":"tX"'))
    store = FileRevokeStore(path)
    for _ in range(12):
        store.save(NS, [Draft("again")])

    assert ids(FileRevokeStore(path)) == ["t0", "again"]
    reader = FileRevokeStore(path)
    list(reader.load(NS))
    (aside,) = reader.quarantine.of(NS)
    assert "checksum" in aside.reason
    assert b'"task_id":"tX"' in path.read_bytes()


def test_g6_no_flipped_bit_loses_an_id_in_silence(path: Path) -> None:
    """What was stored is read, or something is named. ``STEM_TEST_EVERY_BIT=1`` flips every bit, else some of them."""
    store = FileRevokeStore(path)
    store.save(NS, [Draft("a", reason="why"), Draft("b", expires_in=3600.0)])
    store.save(NS, [Draft("b", terminate=True, expires_in=7200.0)])
    store.save(NS, [Draft("c", expires_in=1e-6), Draft("d")])
    store.prune(NS)
    content = path.read_bytes()
    header = content.index(b"\n") + 1
    logging.disable(logging.WARNING)
    try:
        silent, bits = [], range(header * 8, len(content) * 8)
        for bit in bits if os.environ.get("STEM_TEST_EVERY_BIT") == "1" else random.Random(12).sample(bits, 250):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            reader = FileRevokeStore(path)
            found = {record.task_id: record.terminate for record in reader.load(NS)}
            if found != {"a": False, "b": True, "d": False} and not reader.quarantine.of(NS):
                silent.append((bit, content[bit // 8 - 20 : bit // 8 + 1], found))
        assert silent == []
    finally:
        logging.disable(logging.NOTSET)


def test_an_earlier_version_reads_what_is_written_today_and_rewrites_it(path: Path) -> None:
    """What stem-kombu 0.1.0 makes of a line: it finds the end behind the last field, and takes ``supersedes`` out."""
    store = FileRevokeStore(path)
    store.save(NS, [Draft("a"), Draft("b")])
    store.save(NS, [Draft("a", terminate=True, expires_in=60.0)])
    for line in path.read_bytes().splitlines(keepends=True)[1:]:
        end = line.rpartition(b'"expires_at":')[2]
        assert end.startswith(b"null") or end.split(b'"')[1].endswith(b"Z")
    path.write_bytes(
        re.sub(rb'"supersedes":\d+', b'"supersedes":null', path.read_bytes()).replace(b',"more":true', b"")
    )

    reader = FileRevokeStore(path)
    assert {record.task_id: record.terminate for record in reader.since(NS, 0)} == {"a": True, "b": False}
    assert reader.quarantine.of(NS) == ()


def test_g6_a_lock_file_that_is_removed_lets_no_two_writers_in(path: Path) -> None:
    """A cleaner of temporary files takes the sidecar away while clients write."""
    stop, acknowledged, failures = threading.Event(), [], []

    def write(writer: int) -> None:
        store, number = FileRevokeStore(path), 0
        while not stop.is_set():
            number += 1
            try:
                drafts = [Draft(f"{writer}-{number}-{item}") for item in range(10)]
                acknowledged.extend(record.task_id for record in store.save(NS, drafts))
            except StoreUnavailable as error:
                failures.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        before = len(acknowledged)
        path.with_name(path.name + ".lock").unlink(missing_ok=True)
        eventually(lambda count=before: len(acknowledged) > count + 40)  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join()

    assert failures == []
    assert sorted(ids(FileRevokeStore(path))) == sorted(acknowledged)


def test_g1_a_file_that_is_taken_away_while_it_is_written_is_written_again(
    store: FileRevokeStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(NS, [Draft("before")])
    fsync, taken = os.fsync, []

    def taken_away(file: int) -> None:
        fsync(file)
        if not taken:
            taken.append(path.rename(path.with_suffix(".old")))

    monkeypatch.setattr(os, "fsync", taken_away)
    store.save(NS, [Draft("after")])

    assert ids(FileRevokeStore(path)) == ["after"]


def test_a_file_that_was_put_back_from_a_copy_is_another_history(store: FileRevokeStore, path: Path) -> None:
    store.save(NS, [Draft("old")])
    copy = path.read_bytes()
    (new,) = store.save(NS, [Draft("new")])
    before = store.glance(NS, ())
    path.write_bytes(copy)
    FileRevokeStore(path).save(NS, [Draft("other"), Draft("and another")])

    after = store.glance(NS, ())

    assert before.revision == new.version
    assert before.identity != after.identity == store.glance(NS, ()).identity
    assert [record.task_id for record in store.since(NS, 0)] == ["old", "other", "and another"]


@pytest.mark.parametrize("content", [b"hello world\n", b"\x7fELF" + b"\0" * 100, b'{"stem_revocations":2}\n', b"x"])
def test_somebody_elses_file_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    store = FileRevokeStore(path)

    for call in (lambda: store.save(NS, [Draft("t")]), lambda: ids(store), store.ping):
        with pytest.raises(StoreCorrupt, match="line 1"):
            call()

    assert path.read_bytes() == content


WRITER = """
import sys
from pathlib import Path
from stem_kombu.revocation import RevocationDraft
from stem_kombu.stores.file import FileRevokeStore
store = FileRevokeStore(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    names = [f"{sys.argv[2]}-{number}-{item}" for item in range(number % 7 + 1)]
    store.save("shop", [RevocationDraft(name, reason="r" * 200) for name in names])
    print(number, flush=True)
"""


def test_g1_g6_kill_9_in_the_middle_of_writing_loses_nothing_that_was_acknowledged(path: Path) -> None:
    told = 0
    for life in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(life)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(3 + life * 4):
            told = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        told = max([told, *(int(line) for line in writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()

        found = ids(FileRevokeStore(path))  # no StoreCorrupt, whatever was torn

        for number in range(1, told + 1):
            for item in range(number % 7 + 1):
                assert f"{life}-{number}-{item}" in found
        unfinished = [name for name in found if name.startswith(f"{life}-{told + 1}-")]
        assert len(unfinished) in (0, (told + 1) % 7 + 1)


FULL = """
import resource, sys
from pathlib import Path
from stem_kombu.errors import StoreUnavailable
from stem_kombu.revocation import RevocationDraft
from stem_kombu.stores.file import FileRevokeStore
path = Path(sys.argv[1])
store = FileRevokeStore(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1000, resource.RLIM_INFINITY))
try:
    store.save("shop", [RevocationDraft(f"big-{i}", reason="r" * 200) for i in range(100)])
except StoreUnavailable as error:
    print(error.message, "|", error.hint)
store.save("shop", [RevocationDraft("small")])
"""


def test_a_full_disk_keeps_nothing_of_the_batch_and_the_store_goes_on(store: FileRevokeStore, path: Path) -> None:
    store.save(NS, [Draft("before")])

    told = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True).stdout

    assert "can't write it" in told
    assert "make room" in told
    assert ids(store) == ["before", "small"]
    assert [record.task_id for record in store.since(NS, 0)] == ["before", "small"]


@pytest.mark.usefixtures("rewrite_early")
def test_the_file_is_rewritten_when_garbage_dominates(store: FileRevokeStore, path: Path) -> None:
    reader = FileRevokeStore(path)
    path.touch(mode=0o640)
    path.chmod(0o640)
    revision = 0
    for number in range(30):
        (again, other) = store.save(NS, [Draft("again", reason=str(number)), Draft("other", terminate=number == 0)])
        assert list(reader.since(NS, revision)) == [again, other]
        revision = other.version

    assert len(path.read_bytes().splitlines()) < 20
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(FileRevokeStore(path).load(NS)) == [again, other]
    assert other.terminate
    assert sorted(child.name for child in path.parent.iterdir()) == [path.name, path.name + ".lock"]


@pytest.mark.usefixtures("rewrite_early")
def test_g4_a_rewrite_keeps_the_revision_of_a_namespace_without_records(store: FileRevokeStore, path: Path) -> None:
    last = store.save(NS, [Draft(f"t{number}", expires_in=0.001) for number in range(10)])[-1]
    (other,) = store.save("other", [Draft("t")])
    eventually(lambda: ids(store) == [])

    assert store.prune(NS) == 10

    assert len(path.read_bytes().splitlines()) == 4  # header, one record, two marks
    assert FileRevokeStore(path).revision(NS) == last.version
    assert list(FileRevokeStore(path).since("other", 0)) == [other]


@pytest.mark.usefixtures("rewrite_early")
def test_what_a_killed_rewriter_left_behind_is_cleared_away(store: FileRevokeStore, path: Path) -> None:
    leftover = path.with_name(f".{path.name}.abc.tmp")
    leftover.write_text("half a file")
    other = path.with_name(".other.stem.abc.tmp")
    other.write_text("of another store")

    for _ in range(20):
        store.save(NS, [Draft("again")])

    assert not leftover.exists()
    assert other.exists()


@pytest.mark.usefixtures("rewrite_early")
def test_g4_g6_readers_miss_nothing_while_the_file_is_rewritten(path: Path) -> None:
    writer, rounds = FileRevokeStore(path), 150
    done = threading.Event()

    def write() -> None:
        try:
            for number in range(rounds):
                writer.save(NS, [Draft("again"), Draft("and again"), Draft(f"t{number}")])
        finally:
            done.set()

    thread = threading.Thread(target=write)
    thread.start()
    reader, seen, version = FileRevokeStore(path), set(), 0
    while True:
        last_look = done.is_set()
        for record in reader.since(NS, version):
            assert record.version > version
            version = record.version
            seen.add(record.task_id)
        assert {f"t{number}" for number in range(rounds)}.issuperset(seen - {"again", "and again"})
        if last_look:
            break
    thread.join()

    assert seen == {"again", "and again", *(f"t{number}" for number in range(rounds))}
    assert path.stat().st_size < rounds * 3 * 100


@pytest.mark.usefixtures("rewrite_early")
def test_a_stream_survives_a_rewrite_between_two_of_its_records(store: FileRevokeStore, path: Path) -> None:
    records = store.save(NS, [Draft(f"t{number}") for number in range(5)])
    for _ in range(4):
        store.save(NS, [Draft("again")])

    stream = FileRevokeStore(path).load(NS)
    first = next(stream)
    before = path.stat().st_ino
    for _ in range(20):
        store.save(NS, [Draft("again")])

    assert path.stat().st_ino != before
    rest = list(stream)
    assert [first, *[record for record in rest if record.task_id != "again"]] == records


def test_a_deleted_file_is_an_empty_store_whose_versions_go_on(store: FileRevokeStore, path: Path) -> None:
    (old,) = store.save(NS, [Draft("old")])
    path.unlink()

    assert ids(store) == []
    (new,) = store.save(NS, [Draft("new")])

    assert new.version > old.version
    assert [record.task_id for record in store.since(NS, old.version)] == ["new"]


def test_a_clock_that_goes_back_does_not_take_versions_with_it(path: Path) -> None:
    clock = Stopped()
    store = FileRevokeStore(path, clock=clock)
    (first,) = store.save(NS, [Draft("t1")])
    clock.moment -= timedelta(days=1)

    (second,) = store.save(NS, [Draft("t2")])

    assert second.version == first.version + 1
    assert [record.task_id for record in store.since(NS, first.version)] == ["t2"]


def test_a_lock_that_is_never_let_go_is_told(
    store: FileRevokeStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(NS, [Draft("t")])
    monkeypatch.setattr(timeouts, "STORE_FILE_LOCK", 0.05)

    with HeldLock(path), pytest.raises(StoreUnavailable, match="locked by another process") as locked:
        store.save(NS, [Draft("u")])

    assert str(path) in (locked.value.hint or "")
    store.save(NS, [Draft("u")])


def test_readers_do_not_keep_each_other_out(store: FileRevokeStore, path: Path) -> None:
    store.save(NS, [Draft("t")])

    with HeldLock(path, shared=True):
        assert ids(FileRevokeStore(path)) == ["t"]


def test_a_missing_folder_is_told_and_not_made(tmp_path: Path) -> None:
    store = FileRevokeStore(tmp_path / "missing" / "revokes.stem")

    for call in (lambda: store.save(NS, [Draft("t")]), store.ping):
        with pytest.raises(StoreUnavailable, match="there is no folder") as missing:
            call()
        assert missing.value.hint == f"create it: mkdir -p {tmp_path}/missing"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="Is a directory"):
        FileRevokeStore(tmp_path).save(NS, [Draft("t")])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_file_that_may_only_be_read_can_be_read_and_says_why_it_cannot_be_written(
    store: FileRevokeStore, path: Path
) -> None:
    store.save(NS, [Draft("t")])
    path.chmod(0o444)

    with SomebodyElse(path.parent):
        reader = FileRevokeStore(path)
        assert ids(reader) == ["t"]
        with pytest.raises(StoreUnavailable, match="Permission denied"):
            reader.save(NS, [Draft("u")])
        with pytest.raises(StoreUnavailable, match="may not write"):
            reader.ping()


class HeldLock:
    def __init__(self, path: Path, *, shared: bool = False) -> None:
        import fcntl

        self._fcntl, self._mode = fcntl, fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._path = path.with_name(path.name + ".lock")

    def __enter__(self) -> None:
        self._file = self._path.open("rb")
        self._fcntl.flock(self._file, self._mode)

    def __exit__(self, *exception: object) -> None:
        self._file.close()


class SomebodyElse:
    """Run the block as another user, who may pass through the folders above ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folders = [parent for parent in (folder, *folder.parents) if not parent.stat().st_mode & 0o005]

    def __enter__(self) -> None:
        self._modes = [folder.stat().st_mode for folder in self._folders]
        for folder in self._folders:
            folder.chmod(0o755)
        os.seteuid(65534)

    def __exit__(self, *exception: object) -> None:
        os.seteuid(0)
        for folder, mode in zip(self._folders, self._modes, strict=True):
            folder.chmod(mode)


@pytest.fixture(autouse=True)
def _own_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)
