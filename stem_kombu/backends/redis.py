"""Task states and a roster in Redis."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any

from stem_kombu import timeouts
from stem_kombu.backends import redis_scripts
from stem_kombu.backends.base import Backend, RosterView
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.heartbeat_reader import UNREADABLE, BeatReader, beat_text, stamped
from stem_kombu.backends.stored import (
    checked_ttl,
    corrupt,
    giving_way,
    lifetime,
    merged_head,
    parsed_record,
    readable,
    readable_records,
    record_text,
    slices,
    storable_id,
)
from stem_kombu.clock import epoch_us, from_epoch_us
from stem_kombu.drivers import redis_conditions
from stem_kombu.drivers.redis import RedisDatabase, literal
from stem_kombu.errors import StoreCorrupt, StoreError
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.settings import TlsSettings

#: Keys of one SCAN, and records that are read at a time: a record may hold a large result.
_SCANNED, _READ = 1000, 200
#: How the key ends under which what can't be read is kept.
_ASIDE = b":set-aside"


class RedisBackend(Backend):
    """A backend in one Redis, for any number of hosts. Times are by the server's clock; each key expires by itself.

    It is as durable as the server is configured to be. With ``maxmemory``, an eviction policy may take records away
    before their time: use ``noeviction`` or ``volatile-ttl``.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "URL",
        tls: TlsSettings | None = None,
        result_ttl: float = timeouts.RESULT_TTL,
        purpose: str = "result backend",
        patience: float | None = None,
    ) -> None:
        self._database = RedisDatabase(url, name=name, tls=tls, purpose=purpose, patience=patience)
        self.url = self._database.url
        lives = (lifetime(state, checked_ttl(result_ttl)) for state in (TaskState.SUCCEEDED, TaskState.RUNNING))
        self._lives_ms = [max(1, int(life * 1000)) for life in lives]
        self._beats = BeatReader(f"roster {self.url}")
        # The entries that were last seen, as Redis tells them, and what they are: a fleet is looked at more often than it
        # beats. Replaced as a whole, as any thread may look.
        self._seen: tuple[bytes, list[Heartbeat]] = b"[]", []

    # -- task states ------------------------------------------------------------------------------------------------

    def record(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        texts = [record_text(record).encode() for record in records]
        held: list[TaskRecord] = []
        for part in slices(texts):
            answers = self._offer(records[part], texts[part])
            for record, text, answer in zip(records[part], texts[part], answers, strict=True):
                try:
                    held.append(self._answered(record, answer))
                except StoreCorrupt as error:
                    giving_way(error)
                    self._set_aside(record.task_id)
                    held.append(self._answered(record, self._offer([record], [text])[0]))
        return held

    def _offer(self, records: Sequence[TaskRecord], texts: Sequence[bytes]) -> list[int | bytes]:
        # To offer a record again when the answer was lost changes nothing: it meets itself.
        keys = [_task_key(record.task_id) for record in records]
        answers: list[int | bytes] = self._database.evaluate(redis_scripts.RECORD, keys, [*self._lives_ms, *texts])
        return answers

    def _set_aside(self, task_id: str) -> None:
        """Move what can't be read out of the way; it is kept as long as a record of a task that has ended."""
        key = self._database.key(_task_key(task_id))
        aside = f"{key}{_ASIDE.decode()}"
        if self._database.command("exists", key):
            self._database.command("rename", key, aside)
        self._database.command("pexpire", aside, self._lives_ms[0])

    def get(self, task_id: str) -> TaskRecord | None:
        if not storable_id(task_id):
            return None
        key = self._database.key(_task_key(task_id))
        try:
            text = self._database.command("get", key)
        except StoreError as error:
            if "WRONGTYPE" in error.message:
                raise corrupt(self._place(task_id), "another type", error) from error
            raise
        return None if text is None else parsed_record(task_id, text, place=self._place(task_id))

    def scan(self, states: Collection[TaskState] | None = None) -> Iterator[TaskRecord]:
        prefix = self._database.key(_task_key(""))
        pattern, cursor, seen = literal(prefix) + "*", 0, set[bytes]()
        while True:
            cursor, keys = self._database.run(partial(_scanned, cursor, pattern))
            # SCAN may name a key twice, in answers that are near to each other.
            fresh = [key for key in keys if key not in seen and not key.endswith(_ASIDE)]
            seen = set(keys) | (seen if len(seen) < _SCANNED else set())
            for part in (fresh[start : start + _READ] for start in range(0, len(fresh), _READ)):
                texts = self._database.run(partial(_read_all, part))
                rows = (
                    (key.decode("utf-8", "replace").removeprefix(prefix), text)
                    for key, text in zip(part, texts, strict=True)
                    if text is not None
                )
                yield from readable_records(rows, states, place=f"result backend {self.url}")
            if not cursor:
                return

    def find(self, task_ids: Sequence[str]) -> dict[str, TaskRecord | None]:
        found: dict[str, TaskRecord | None] = {}
        wanted = [task_id for task_id in task_ids if storable_id(task_id)]
        for part in slices(wanted):
            keys = [self._database.key(_task_key(task_id)) for task_id in wanted[part]]
            # A key of another type is nil here, as if nothing was known of the task.
            texts = self._database.command("mget", keys)
            for task_id, text in zip(wanted[part], texts, strict=True):
                if text is not None:
                    found[task_id] = readable(task_id, text, place=self._place(task_id))
        return found

    def _answered(self, record: TaskRecord, answer: int | bytes) -> TaskRecord:
        if isinstance(answer, int):
            return record
        place = self._place(record.task_id)
        if answer.startswith(b"+"):
            return merged_head(record, answer[1:], place=place)
        if answer.startswith(b"-"):
            return parsed_record(record.task_id, answer[1:], place=place)
        raise corrupt(place, "another form", ValueError("no head"))

    def _place(self, task_id: str) -> str:
        return f"result backend {self.url}: key {self._database.key(_task_key(task_id))!r}"

    # -- roster -----------------------------------------------------------------------------------------------------

    def beat(self, heartbeat: Heartbeat) -> datetime:
        now, _ = self._beat(heartbeat, claim=False)
        return now

    def offer(self, heartbeat: Heartbeat, *, dead: Heartbeat | None = None) -> tuple[datetime, Heartbeat | None]:
        now, entry = self._beat(heartbeat, claim=True, dead=dead)
        if entry is None:
            return now, None
        try:
            return now, _read(json.loads(entry))
        except UNREADABLE as error:
            key = self._database.key(_roster_key(heartbeat.namespace))
            raise StoreCorrupt(
                f"roster {self.url}: key {key!r}, field {heartbeat.worker!r} holds "
                f"{entry[:80]!r}, which is no heartbeat: {error!r}",
                hint="another program writes there; delete the field, or use another namespace",
            ) from error

    def leave(self, namespace: str, worker: str, boot: str) -> None:
        self._database.evaluate(redis_scripts.LEAVE, [_roster_key(namespace)], [worker, json.dumps(boot)])

    def view(self, namespace: str) -> RosterView:
        now_us, page = self._database.evaluate(redis_scripts.VIEW, [_roster_key(namespace)], [])
        aside: tuple[str, ...] = ()
        same, beats = self._seen
        if page != same:
            try:
                beats = [_read(entry) for entry in json.loads(page)]
            except UNREADABLE:  # one of them, or their shape (then there is no page)
                beats, aside = self._one_by_one(namespace)
            beats.sort(key=attrgetter("worker"))
            if not aside and isinstance(page, bytes):
                self._seen = page, beats
        return RosterView(tuple(beats), from_epoch_us(int(now_us)), len(aside), aside)

    def _one_by_one(self, namespace: str) -> tuple[list[Heartbeat], tuple[str, ...]]:
        key = self._database.key(_roster_key(namespace))
        entries: dict[bytes, bytes] = self._database.command("hgetall", key)
        found, aside = [], []
        for name, entry in entries.items():
            try:
                found.append(_read(json.loads(entry)))
            except UNREADABLE as error:
                aside.append(name.decode(errors="replace"))
                self._beats.tell(namespace, aside[-1], error)
        return found, tuple(aside)

    def _beat(self, beat: Heartbeat, *, claim: bool, dead: Heartbeat | None = None) -> tuple[datetime, bytes | None]:
        held_us, kept_us = (int(span * 1_000_000) for span in (beat.interval * timeouts.STALE_INTERVALS, beat.lifetime))
        # Repeated when the answer was lost: a claim that succeeded meets its own boot and succeeds again.
        now_us, entry = self._database.evaluate(
            redis_scripts.BEAT,
            [_roster_key(beat.namespace)],
            [beat.worker, json.dumps(beat.boot), beat_text(beat), held_us, kept_us, int(claim), *_as_seen(dead)],
        )
        return from_epoch_us(int(now_us)), entry

    # -- both -------------------------------------------------------------------------------------------------------

    def check(self, namespace: str) -> list[str]:
        marker = self._database.key(f"{{{namespace}}}:control:health-")
        facts = self._database.run(partial(redis_conditions.look, marker=marker, where=f"result backend {self.url}"))
        return redis_conditions.warnings(facts, "task states", expiring=True)

    def ping(self) -> None:
        self._database.command("ping")

    def close(self) -> None:
        self._database.close()


def _as_seen(dead: Heartbeat | None) -> tuple[str, int]:
    return ("", 0) if dead is None or dead.timestamp is None else (json.dumps(dead.boot), epoch_us(dead.timestamp))


def _scanned(cursor: int, pattern: str, client: Any) -> tuple[int, list[bytes]]:
    at, keys = client.scan(cursor, match=pattern, count=_SCANNED)
    return at, keys


def _read_all(keys: Sequence[bytes], client: Any) -> list[bytes | None]:
    texts: list[bytes | None] = client.mget(keys)
    return texts


def _task_key(task_id: str) -> str:
    return f"stem:task:{task_id}"


@lru_cache(maxsize=64)
def _roster_key(namespace: str) -> str:
    # The same beginning as the keys of the revocations, so that one access rule for them covers both.
    return f"{{{namespace}}}:control:roster"


def _read(entry: Any) -> Heartbeat:
    stamped_us, _, _, _, fields = entry
    return stamped(fields, stamped_us)
