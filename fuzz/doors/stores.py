"""What a revoke store reads back: the lines of its file, the values of Redis, the rows of SQLite.

A store sets aside what can't be read, naming the place; it never hands something out that is no revocation, since workers
stop tasks because of it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path

from fuzz.oracle import Refused, asked, holds, is_json, same
from stem_kombu.bound import Bound, bound_text, bounds_of
from stem_kombu.clock import epoch_us
from stem_kombu.errors import StoreError
from stem_kombu.revocation import Revocation, RevocationDraft, checked_task_id
from stem_kombu.revocation_page import page_of
from stem_kombu.stores import redis as redis_store
from stem_kombu.stores import redis_pages, sql_rows
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.file import FileRevokeStore

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
NAMESPACE = "stem"


@lru_cache(maxsize=1)
def _folder() -> Path:
    memory = Path("/dev/shm")  # files there cost no disk
    return Path(tempfile.mkdtemp(prefix="stem-fuzz-", dir=memory if memory.is_dir() else None))


def store_file(data: bytes) -> None:
    path = _folder() / "revokes.json"
    path.write_bytes(data)
    store = FileRevokeStore(path)
    refused = None
    records: list[Revocation] = []
    try:
        records = asked(StoreError, lambda: list(store.since(NAMESPACE, 0)))
    except Refused as refusal:
        refused = refusal
    for record in records:
        sound(record)
    versions = [record.version for record in records]
    holds(versions == sorted(set(versions)), "versions are not in order", versions)
    for call in (
        lambda: store.revision(NAMESPACE),
        lambda: list(store.load(NAMESPACE)),
        lambda: store.get(NAMESPACE, "t-1"),
        lambda: store.prune(NAMESPACE),
    ):
        try:
            asked(StoreError, call)
        except Refused:
            refused = refused or Refused()
    if refused is not None:
        raise refused
    live = {record.task_id for record in store.load(NAMESPACE)}
    (saved,) = asked(StoreError, store.save, NAMESPACE, [RevocationDraft("t-new", reason="new")])
    after = {record.task_id for record in FileRevokeStore(path).load(NAMESPACE)}
    holds(after == live | {"t-new"}, "a save lost or made records", live, after)
    holds(saved.version > max(versions, default=0), "a version is not above those before", saved, versions)


def sound(record: Revocation) -> None:
    """Raise a finding unless that is a revocation as a store may hold it."""
    holds(record.namespace == NAMESPACE, "a record of another namespace", record)
    try:
        checked_task_id(record.task_id)
    except Exception as error:  # noqa: BLE001 - whatever it is, the id is none
        holds(False, f"a record of no task ({error})", record)
    fields = (record.version, record.terminate, record.reason, record.requested_by)
    holds(isinstance(record.version, int) and 0 <= record.version < 2**63, "a version that no store can hold", record)
    holds(isinstance(record.terminate, bool), "terminate is neither true nor false", record)
    holds(all(text is None or isinstance(text, str) for text in fields[2:]), "a text is none", record)
    holds(record.issued_at.tzinfo is not None, "a time without an offset", record)
    record.is_expired(NOW)
    is_json(record.to_record(), "a revocation")
    same(Revocation.from_record(json.loads(json.dumps(record.to_message()))), record, "a revocation")
    bounds_of(record, record.issued_at)


def store_file_seeds() -> Iterator[bytes]:
    path = _folder() / "seed.json"
    path.unlink(missing_ok=True)
    store = FileRevokeStore(path)
    yield b""
    store.save(NAMESPACE, [RevocationDraft("t-1")])
    yield path.read_bytes()
    store.save(NAMESPACE, [RevocationDraft("t-1", True, "why", "me"), RevocationDraft("t-2", expires_in=3600.0)])
    store.save("other", [RevocationDraft("t-3", reason='quo"te')])
    yield path.read_bytes()
    store.save(NAMESPACE, [RevocationDraft("t-1", proofs=("proof-1",))])
    store.save(NAMESPACE, [RevocationDraft("t-4", proofs=(bound_text(Bound(2), now_us=1, expires_us=None),))])
    yield path.read_bytes()
    later = FileRevokeStore(path, clock=_At(datetime(2099, 1, 1, tzinfo=timezone.utc)))
    later.prune(NAMESPACE)
    yield path.read_bytes()
    yield path.read_bytes()[:-20]


class _At:
    """A clock that stands."""

    def __init__(self, moment: datetime) -> None:
        self._moment = moment

    def utcnow(self) -> datetime:
        return self._moment

    def now(self) -> float:
        return self._moment.timestamp()

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing sleeps here")


# -- rows -----------------------------------------------------------------------------------------------------------------


def redis_row(data: bytes) -> None:
    """A page of the script, its four lists in a line each; each record is what another program put into the hash."""
    lines = [*data.split(b"\n"), b"", b"", b""][:4]
    parsed = asked((TypeError, ValueError, RecursionError), redis_pages.parsed, *lines)
    page = page_of(NAMESPACE, parsed.columns())
    each = zip(parsed.task_ids, parsed.records(), strict=True)
    found = [asked(redis_store.UNREADABLE, redis_store.record_of, NAMESPACE, *one) for one in each]
    for record in found:
        sound(record)
    holds(page is None or list(page) == found, "a page by columns is another than its records", page, found)


def redis_row_seeds() -> Iterator[bytes]:
    version, rest = 1_769_860_800_000_001, {
        "issued_us": epoch_us(NOW), "terminate": True, "reason": "why", "requested_by": None,
        "expires_us": epoch_us(NOW + timedelta(days=7)),
    }  # fmt: skip
    for page in (
        (["t-1"], [version], [rest], [1]),
        (["t-1"], [version], [{**rest, "proofs": ["proof-1", "proof-2"]}], [1]),
        (["t-1"], [None], [{**rest, "version": version}], [1]),
        (["t-1", "t-2", "t-3"], [version, version + 1, version + 2], [rest, {**rest, "expires_us": None}], [2, 1]),
        ([], [], [], []),
    ):
        yield b"\n".join(json.dumps(each).encode() for each in page)


def sqlite_row(data: bytes) -> None:
    """The columns of a row, which SQLite holds whatever their types."""
    row = asked((ValueError, RecursionError), json.loads, data)
    if not (isinstance(row, list) and len(row) == 8 and all(_storable(value) for value in row)):
        raise Refused
    sound(asked((TypeError, ValueError, OverflowError), sql_rows.record_of, NAMESPACE, tuple(row)))


def _storable(value: object) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value is None or isinstance(value, (str, float))


def sqlite_row_seeds() -> Iterator[bytes]:
    row = ["t-1", 1_769_860_800_000_001, epoch_us(NOW), 1, "why", "me", epoch_us(NOW + timedelta(days=7))]
    yield json.dumps([*row, None]).encode()
    yield json.dumps([*row[:4], None, None, None, '["proof-1"]']).encode()


def check_store(store: RevokeStore) -> None:
    """What any store gives after somebody wrote to it: sound records, or a refusal."""
    for call in (lambda: list(store.since(NAMESPACE, 0)), lambda: list(store.load(NAMESPACE))):
        try:
            for record in asked(StoreError, call):
                sound(record)
        except Refused:
            pass
    for refusing in (
        lambda: store.revision(NAMESPACE),
        lambda: store.get(NAMESPACE, "t-1"),
        lambda: store.prune(NAMESPACE),
        lambda: store.save(NAMESPACE, [RevocationDraft("t-1", reason="new")]),
    ):
        try:
            asked(StoreError, refusing)
        except Refused:
            pass
