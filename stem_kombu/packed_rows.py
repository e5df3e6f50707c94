"""Rows of fixed width under text ids: a million in 90 MB, found by id without a lock, kept in the order in which they came.

The rows stand in blocks of columns, 48 bytes a row; an id that is a UUID in lower case takes 16 of them, and any other id is
kept as text at the side. An open-addressed table finds a row by Python's own hash of the id, which is keyed anew in each
process; the id itself is compared before anything counts as found. Nothing here is an object for each row that the garbage
collector, or the allocator, would have to know.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence

from stem_kombu.row_block import GONE, KEY, NEVER, Block, Columns, Row

#: Rows of a block: so many are moved at a time.
BLOCK = 1024
_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UUID_LENGTH = 36
_HYPHENS = (8, 13, 18, 23)
#: In a row's flags: its key is the number of a text.
_NAMED = 1 << 31

# An entry of the table: the upper bits of the id's hash, which also tell the slot where its search begins, and the row: the
# number of the block, which is never given again, and the place in it.
_HASH = 2**64 - 1
_ROW_BITS = 36
_ROWS = 1 << _ROW_BITS
_ROW = _ROWS - 1
_UPPER = _HASH ^ _ROW
_EMPTY = 0
#: Where an entry was removed: a search goes on behind it. No row has this number, since blocks are counted from 1.
_REMOVED = 1
_SMALLEST = 1 << 10


class PackedRows:
    """Rows by id. One thread at a time may change them; :meth:`expiry` may be asked by others meanwhile."""

    def __init__(self) -> None:
        self._blocks: dict[int, Block] = {}
        self._order: list[Block] = []
        self._next_number = 1
        self._names: list[str] = []
        self._free_names: list[int] = []
        self._index = _table(_SMALLEST)
        self._used = 0
        self._live = 0
        self._rows = 0

    def __len__(self) -> int:
        return self._live

    def expiry(self, task_id: object) -> int:
        """When the row of this id expires, :data:`NEVER` included; 0 where there is none."""
        hashed = hash(task_id) & _HASH
        table, shift = self._index
        slot = hashed >> shift
        while entry := table[slot]:
            if entry ^ hashed < _ROWS:
                place = entry % BLOCK
                block = self._blocks.get((entry & _ROW) // BLOCK)
                if block is not None and self._is(block, place, task_id):
                    return block.expires_us[place]
                found = self._find(task_id, hashed)  # another id, or it was moved meanwhile
                return 0 if found is None else found[0].expires_us[found[1]]
            slot -= 1  # below 0 it goes on from the end
        return 0

    def may_hold(self, task_id: object) -> bool:
        """Whether there may be a row of this id: where it says no there is none."""
        hashed = hash(task_id) & _HASH
        table, shift = self._index
        slot = hashed >> shift
        while entry := table[slot]:
            if entry ^ hashed < _ROWS:
                return True
            slot -= 1
        return False

    def get(self, task_id: str) -> Row | None:
        """The row of this id."""
        found = self._find(task_id, hash(task_id) & _HASH)
        return None if found is None else self._row(*found, task_id)

    def version(self, task_id: str) -> int | None:
        """The version of the row of this id."""
        found = self._find(task_id, hash(task_id) & _HASH)
        return None if found is None else found[0].versions[found[1]]

    def extend(self, columns: Columns) -> list[tuple[int, int]]:
        """Add rows behind all others, in the place of earlier ones of their ids: returned are flags and requesters of those."""
        replaced = []
        keys, named = self._keys_of(columns.task_ids)
        start, count = 0, len(columns.task_ids)
        if 3 * (self._used + count) > len(self._index[0]):
            self._make_room(count)
        while start < count:
            if not self._order or len(self._order[-1].versions) >= BLOCK:
                self._order.append(self._new_block())
            block = self._order[-1]
            place = len(block.versions)
            stop = min(count, start + BLOCK - place)
            block.extend(columns, keys, named, start, stop)
            self._live += stop - start
            self._rows += stop - start
            row = block.number * BLOCK + place
            table, shift = self._index
            for task_id in columns.task_ids[start:stop]:
                hashed = hash(task_id) & _HASH
                slot = hashed >> shift
                if table[slot]:
                    slot, earlier = self._place_of(task_id, hashed)
                    self._used -= table[slot] != _EMPTY
                    table[slot] = hashed & _UPPER | row
                    if earlier is not None:  # a reader finds one or the other
                        replaced.append(self._take_out(*earlier))
                else:
                    table[slot] = hashed & _UPPER | row
                row += 1
            self._used += stop - start
            start = stop
        return replaced

    def remove(self, task_id: str) -> Row | None:
        """The row of this id, which is there no more."""
        hashed = hash(task_id) & _HASH
        slot, found = self._place_of(task_id, hashed)
        if found is None:
            return None
        row = self._row(*found, task_id)
        self._index[0][slot] = _REMOVED
        self._take_out(*found)
        return row

    def expired(self, now_us: int) -> list[str]:
        """Ids whose rows expired by then, of one block; empty when no row of any did."""
        for block in self._order:
            if block.due <= now_us:
                live = block.places()
                found = [place for place in live if block.expires_us[place] <= now_us]
                block.due = min((block.expires_us[place] for place in live), default=NEVER)
                if found:
                    return [self._id(block, place) for place in found]
        return []

    def newest(self) -> Iterator[Row]:
        """All rows, the last one first."""
        for block in reversed(self._order):
            for place in range(len(block.versions) - 1, -1, -1):
                if block.versions[place] != GONE:
                    yield self._row(block, place)

    def of_version(self, version: int) -> list[Row]:
        """The rows of this version, the first one first."""
        found = ((block, place) for block in self._order for place in block.places())
        return [self._row(*at) for at in found if at[0].versions[at[1]] == version]

    def set_versions(self, version: int) -> None:
        """Give all rows this version."""
        for block in self._order:
            block.versions = array("q", [GONE if held == GONE else version for held in block.versions])

    def tidy(self) -> None:
        """Where more rows have been replaced or removed than there are, make one block of two that follow each other."""
        if self._rows <= 2 * self._live + BLOCK:
            return
        for at in range(len(self._order) - 1):
            first, second = self._order[at : at + 2]
            if first.live + second.live <= BLOCK:
                self._order[at : at + 2] = [self._merged(first, second)]
                return

    # -- finding ------------------------------------------------------------------------------------------------------

    def _find(self, task_id: object, hashed: int) -> tuple[Block, int] | None:
        """Where the row of the id is, by any thread."""
        while True:
            index = table, shift = self._index
            slot = hashed >> shift
            while entry := table[slot]:
                if entry ^ hashed < _ROWS and entry != _REMOVED:
                    number, place = divmod(entry & _ROW, BLOCK)
                    block = self._blocks.get(number)
                    if block is not None and self._is(block, place, task_id):
                        return block, place
                    if table[slot] != entry or self._index is not index:
                        break  # moved meanwhile: look again
                slot -= 1
            else:
                return None

    def _place_of(self, task_id: str, hashed: int) -> tuple[int, tuple[Block, int] | None]:
        """The slot of the id and its row; where it has none, the slot that it can have."""
        table, shift = self._index
        slot, free = hashed >> shift, None
        while entry := table[slot]:
            if entry == _REMOVED:
                free = slot if free is None else free
            elif entry ^ hashed < _ROWS:
                number, place = divmod(entry & _ROW, BLOCK)
                block = self._blocks[number]
                if self._is(block, place, task_id):
                    return slot, (block, place)
            slot -= 1
        return slot if free is None else free, None

    def _id(self, block: Block, place: int) -> str:
        key = block.keys[place * KEY : place * KEY + KEY]
        if block.flags[place] & _NAMED:
            return self._names[int.from_bytes(key, "big")]
        text = key.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def _is(self, block: Block, place: int, task_id: object) -> bool:
        """Whether the row has that id; spelled out, a UUID takes twice as long as this."""
        if block.flags[place] & _NAMED or not isinstance(task_id, str):
            return self._id(block, place) == task_id
        return (
            len(task_id) == _UUID_LENGTH
            and task_id[8:24:5] == "----"
            and task_id.replace("-", "") == block.keys[place * KEY : place * KEY + KEY].hex()
        )

    def _row(self, block: Block, place: int, task_id: str | None = None) -> Row:
        return Row(
            task_id or self._id(block, place),
            block.versions[place],
            block.issued_us[place],
            block.expires_us[place],
            block.flags[place] & ~_NAMED,
            block.requesters[place],
        )

    # -- changing -----------------------------------------------------------------------------------------------------

    def _keys_of(self, task_ids: Sequence[str]) -> tuple[bytes, Sequence[int]]:
        """The keys of the ids, and for each whether it is a text's number; empty where none is."""
        if (keys_of_all := _keys_of_uuids(task_ids)) is not None:
            return keys_of_all, ()
        keys, named = bytearray(), []
        for task_id in task_ids:
            is_uuid = len(task_id) == _UUID_LENGTH and _UUID.fullmatch(task_id)
            keys += bytes.fromhex(task_id.replace("-", "")) if is_uuid else self._name(task_id).to_bytes(KEY, "big")
            named.append(0 if is_uuid else _NAMED)
        return bytes(keys), named

    def _name(self, text: str) -> int:
        if self._free_names:
            number = self._free_names.pop()
            self._names[number] = text
            return number
        self._names.append(text)
        return len(self._names) - 1

    def _take_out(self, block: Block, place: int) -> tuple[int, int]:
        """Flags and requester of a row that is gone now."""
        flags = block.flags[place]
        if flags & _NAMED:
            number = int.from_bytes(block.keys[place * KEY : place * KEY + KEY], "big")
            self._names[number] = ""
            self._free_names.append(number)
        block.versions[place] = GONE
        block.live -= 1
        self._live -= 1
        if not block.live and (block is not self._order[-1] or len(block.versions) == BLOCK):
            self._order.remove(block)
            self._drop(block)
        return flags & ~_NAMED, block.requesters[place]

    def _new_block(self) -> Block:
        block = self._blocks[self._next_number] = Block(self._next_number)
        self._next_number += 1
        return block

    def _drop(self, block: Block) -> None:
        del self._blocks[block.number]
        self._rows -= len(block.versions)

    def _merged(self, first: Block, second: Block) -> Block:
        """A block with the live rows of both."""
        merged, (table, shift) = self._new_block(), self._index
        for block in (first, second):
            for place in block.places():
                row = block.number * BLOCK + place
                merged.copy(block, place)
                slot = (entry := hash(self._id(block, place)) & _UPPER | row) >> shift
                while table[slot] != entry:
                    slot -= 1
                table[slot] = entry & _UPPER | merged.number * BLOCK + merged.live - 1
            self._drop(block)
        self._rows += merged.live
        return merged

    def _make_room(self, count: int) -> None:
        """Make the table at least three times as large as what will be in it: most searches for what is not there end at once."""
        table, _ = self._index
        size = _SMALLEST
        while size < 4 * (self._live + count):
            size *= 4
        larger, shift = index = _table(size)
        for entry in table:
            if entry > _REMOVED:
                slot = entry >> shift
                while larger[slot]:
                    slot -= 1
                larger[slot] = entry
        self._used = self._live
        self._index = index


def _table(size: int) -> tuple[array[int], int]:
    return array("Q", bytes(8 * size)), 65 - size.bit_length()


def _keys_of_uuids(task_ids: Sequence[str]) -> bytes | None:
    """The keys of ids that are all UUIDs in lower case; ``None`` where one of them is not."""
    joined, count = "".join(task_ids), len(task_ids)
    if set(map(len, task_ids)) != {_UUID_LENGTH} or joined != joined.lower():
        return None
    if [joined[at::_UUID_LENGTH] for at in _HYPHENS] != ["-" * count] * len(_HYPHENS):
        return None
    try:
        keys = bytes.fromhex(joined.replace("-", ""))
    except ValueError:
        return None
    return keys if len(keys) == KEY * count else None  # it skips spaces, and there may be more hyphens
