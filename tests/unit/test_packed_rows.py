"""Rows by id in little memory: what a dictionary would hold, in the order in which it came."""

from __future__ import annotations

import random
import threading
import uuid
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_kombu import packed_rows
from stem_kombu.packed_rows import PackedRows
from stem_kombu.row_block import NEVER, Columns, Row

UUIDS = [str(uuid.UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)) for number in range(1, 12)]
#: Ids that are no UUIDs as Python writes them: each is another id than its neighbour.
OTHERS = [
    "t",
    UUIDS[0].upper(),
    UUIDS[0].replace("-", ""),
    UUIDS[0][:-1] + " ",
    "{" + UUIDS[1][1:],
    "é" * 36,
    "0" * 36,
    "x" * 512,
]


def row(task_id: str, version: int, expires_us: int = NEVER) -> Row:
    return Row(task_id, version, 1_000_000 + version, expires_us, version * 2 + 1, version % 7)


def add(rows: PackedRows, *added: Row) -> list[tuple[int, int]]:
    return rows.extend(Columns.of_rows(added))


def test_each_spelling_of_an_id_is_another_id() -> None:
    rows = PackedRows()
    for version, task_id in enumerate([*UUIDS, *OTHERS], 1):
        assert rows.get(task_id) is None
        assert add(rows, row(task_id, version)) == []

    for version, task_id in enumerate([*UUIDS, *OTHERS], 1):
        assert rows.get(task_id) == row(task_id, version)
    assert [found.task_id for found in rows.newest()] == [*UUIDS, *OTHERS][::-1]


@pytest.fixture(params=[0, packed_rows._ROW_BITS], ids=["hash", "same hash"])
def colliding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are told apart by themselves also where all have the same hash."""
    if request.param:
        monkeypatch.setattr(packed_rows, "hash", lambda task_id: 7 << request.param, raising=False)


@dataclass
class Model:
    """A dictionary beside the rows."""

    rows: PackedRows = field(default_factory=PackedRows)
    held: dict[str, Row] = field(default_factory=dict)
    version: int = 0

    def extend(self, ids: list[str], life: int) -> None:
        added = [row(task_id, self.version + place, life) for place, task_id in enumerate(ids, 1)]
        self.version += len(ids)
        replaced = []
        for one in added:
            if (earlier := self.held.pop(one.task_id, None)) is not None:
                replaced.append((earlier.flags, earlier.requester))
            self.held[one.task_id] = one
        assert sorted(self.rows.extend(Columns.of_rows(added))) == sorted(replaced)

    def remove(self, task_id: str) -> None:
        assert self.rows.remove(task_id) == self.held.pop(task_id, None)

    def expire(self, now_us: int) -> None:
        while expired := self.rows.expired(now_us):
            for task_id in expired:
                assert self.held[task_id].expires_us <= now_us
                self.remove(task_id)
        assert all(one.expires_us > now_us for one in self.held.values())

    def check(self, ids: list[str]) -> None:
        assert len(self.rows) == len(self.held)
        assert list(self.rows.newest()) == list(self.held.values())[::-1]
        assert {task_id: self.rows.get(task_id) for task_id in ids} == {
            task_id: self.held.get(task_id) for task_id in ids
        }
        expiries = {task_id: found.expires_us for task_id, found in self.held.items()}
        assert {task_id: self.rows.expiry(task_id) for task_id in ids} == {
            task_id: expiries.get(task_id, 0) for task_id in ids
        }


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("extend"),
            st.lists(st.sampled_from([*UUIDS, *OTHERS]), min_size=1, max_size=12),
            st.sampled_from([1, 2, 3, NEVER]),
        ),
        st.tuples(st.just("remove"), st.sampled_from([*UUIDS, *OTHERS])),
        st.tuples(st.just("expire"), st.sampled_from([1, 2])),
    ),
    max_size=20,
)


@pytest.mark.usefixtures("colliding")
def test_it_is_what_a_plain_dictionary_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_rows, "BLOCK", 4)  # so that blocks are filled, emptied and merged
    monkeypatch.setattr(packed_rows, "_SMALLEST", 4)

    @given(steps)
    def holds(taken: list[tuple[str, list[str], int]]) -> None:
        model = Model()
        for name, *arguments in taken:
            getattr(model, name)(*arguments)
            model.rows.tidy()
            model.check([*UUIDS, *OTHERS])

    holds()


def test_what_was_replaced_and_removed_takes_no_more_than_what_there_is() -> None:
    rows, dice = PackedRows(), random.Random(3)
    ids = [str(uuid.UUID(int=dice.getrandbits(128))) for _ in range(4 * packed_rows.BLOCK)]
    for round_of in range(8):
        for _ in range(0, len(ids), 100):
            add(rows, *[row(task_id, round_of + 1) for task_id in dice.choices(ids, k=100)])
            rows.tidy()
    for task_id in ids:
        rows.remove(task_id)
        rows.tidy()

    assert len(rows) == 0
    assert len(rows._index[0]) <= 16 * packed_rows.BLOCK
    assert sum(len(block.versions) for block in rows._order) <= 2 * packed_rows.BLOCK
    assert rows._rows == sum(len(block.versions) for block in rows._order)
    assert list(rows._blocks.values()) == sorted(rows._order, key=lambda block: block.number)


def test_texts_of_ids_are_given_free() -> None:
    rows = PackedRows()
    for version in range(1, 100):
        add(rows, row("t", version), row("u", version))
        rows.remove("u")

    assert rows.get("t") == row("t", 99)
    assert sorted(filter(None, rows._names)) == ["t"]
    assert len(rows._names) < 5


def test_all_rows_get_another_version() -> None:
    rows = PackedRows()
    add(rows, row("t1", 5), row("t2", 6), row("t3", 7))
    rows.remove("t2")

    rows.set_versions(0)
    add(rows, row("t3", 8))

    assert [(found.task_id, found.version) for found in rows.newest()] == [("t3", 8), ("t1", 0)]
    assert [found.task_id for found in rows.of_version(0)] == ["t1"]
    assert (rows.version("t1"), rows.version("t2")) == (0, None)


def test_a_reader_never_misses_a_row_that_is_replaced_moved_or_beside_one_that_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed_rows, "BLOCK", 8)
    monkeypatch.setattr(packed_rows, "_SMALLEST", 4)
    rows = PackedRows()
    fixed = [*UUIDS, *(f"fixed{number}" for number in range(20))]
    add(rows, *[row(task_id, version) for version, task_id in enumerate(fixed, 1)])
    stop = threading.Event()
    missed: list[str] = []

    def look() -> None:
        while not stop.is_set():
            missed.extend(task_id for task_id in fixed if rows.expiry(task_id) != NEVER)
            missed.extend(task_id for task_id in ("never", str(uuid.uuid4())) if rows.expiry(task_id))

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    dice = random.Random(1)
    for version in range(100, 900):
        add(rows, row(f"t{dice.randint(1, 200)}", version, 5), row(dice.choice(fixed), version))
        rows.remove(f"t{dice.randint(1, 200)}")
        rows.tidy()
    stop.set()
    for reader in readers:
        reader.join()

    assert missed == []


@pytest.mark.parametrize(
    "other",
    [
        "3F2504E0-4F89-41D3-9A0C-0305E82C3301", "3f2504e04f8941d39a0c0305e82c3301", "3f2504e0-4f89-41d3-9a0c0305e82c-3301",
        "3f2504e0-4f89-41d3-9a0c-0305e82c330", 7, None, b"3f2504e0-4f89-41d3-9a0c-0305e82c3301",
    ],
)  # fmt: skip
def test_what_is_spelled_otherwise_is_another_id(other: object) -> None:
    task_id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
    rows = PackedRows()
    add(rows, Row(task_id, 1, 5, NEVER, 1, 0))
    block = rows._order[0]

    assert rows._is(block, 0, task_id)
    assert not rows._is(block, 0, other)
    assert rows.expiry(task_id) == NEVER
    assert rows.expiry(other) == 0
