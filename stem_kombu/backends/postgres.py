"""Task states and a roster in a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from typing import Any

from stem_kombu import chance, timeouts
from stem_kombu.backends import postgres_statements as sql
from stem_kombu.backends.base import Backend, RosterView
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.heartbeat_reader import BeatReader, beat_text
from stem_kombu.backends.pruning import PruneSchedule
from stem_kombu.backends.stored import (
    assembled,
    body_text,
    checked_ttl,
    corrupt,
    giving_way,
    lifetime,
    slices,
    storable_id,
    with_carried,
)
from stem_kombu.clock import epoch_us
from stem_kombu.drivers.postgres import PostgresDatabase
from stem_kombu.drivers.postgres_conditions import warnings
from stem_kombu.drivers.postgres_session import PostgresSession
from stem_kombu.errors import StoreCorrupt, StoreError
from stem_kombu.fields import FieldError, json_value
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.settings import TlsSettings

#: A record's place in the batch, itself, and its body as text.
_Offer = tuple[int, TaskRecord, str]
#: Offers that are neither stored nor found refused are made again; each time another writer's row must have expired and
#: been pruned between two statements, so more than a few mean that something is wrong.
_ROUNDS = 20


class PostgresBackend(Backend):
    """A backend in a database, for any number of hosts. Times are by the database's clock.

    A batch costs one round trip when everything in it is admitted: one INSERT … ON CONFLICT … WHERE, in which the rule
    of :mod:`stem_kombu.outcome` stands as SQL. Rows are written in the order of their ids, so that two batches can't
    wait for each other.
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
        self._database = PostgresDatabase(
            url, schema=sql.SCHEMA, name=name, tls=tls, purpose=purpose, patience=patience
        )
        self._result_ttl = checked_ttl(result_ttl)
        self._pace = PruneSchedule()
        self._roster_pace = PruneSchedule()
        self.url = self._database.url
        self._beats = BeatReader(f"roster {self.url}")

    # -- task states ------------------------------------------------------------------------------------------------

    def record(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        offers: list[_Offer] = [(place, record, body_text(record)) for place, record in enumerate(records)]
        held: dict[int, TaskRecord] = {}
        for part in slices([body for _, _, body in offers]):
            for distinct in _distinct(offers[part]):
                held |= self._offered(distinct)
        if records and (limit := self._pace.due(len(records))):
            self._database.execute(sql.PRUNE, (limit,))
        return [held[place] for place in range(len(records))]

    def get(self, task_id: str) -> TaskRecord | None:
        if not storable_id(task_id):
            return None
        rows = self._database.rows(sql.GET, (task_id,))
        return self._record(rows[0]) if rows else None

    def scan(self, states: Collection[TaskState] | None = None) -> Iterator[TaskRecord]:
        wanted = [state.value for state in (TaskState if states is None else states)]
        after = ""
        while rows := self._database.rows(sql.PAGE, (after, wanted)):
            for row in rows:
                with suppress(StoreCorrupt):
                    yield self._record(row)
            after = rows[-1][0]

    def find(self, task_ids: Sequence[str]) -> dict[str, TaskRecord | None]:
        found: dict[str, TaskRecord | None] = {}
        wanted = [task_id for task_id in task_ids if storable_id(task_id)]
        for part in slices(wanted):
            rows = self._database.rows(sql.FIND, (wanted[part],))
            for row in rows:
                try:
                    found[row[0]] = self._record(row)
                except StoreCorrupt:
                    found[row[0]] = None
        return found

    def _prune_roster(self) -> None:
        if limit := self._roster_pace.due(1):
            self._database.execute(sql.PRUNE_ROSTER, (limit,))

    def _offered(self, offers: Sequence[_Offer]) -> dict[int, TaskRecord]:
        """What is held after these offers of distinct ids, by their places."""
        held: dict[int, TaskRecord] = {}
        for _ in range(_ROUNDS):
            if not offers:
                return held
            size = sum(len(body) for _, _, body in offers)
            answer = self._database.read(partial(self._answer, offers=offers), size=size)
            offers = [offer for offer in offers if offer[0] not in answer]
            held |= answer
        raise StoreError(f"result backend {self.url}: task {offers[0][1].task_id!r} is neither stored nor held")

    def _answer(self, session: PostgresSession, offers: Sequence[_Offer]) -> dict[int, TaskRecord]:
        # One statement, so its own transaction; to make it again when the answer was lost changes nothing, because a
        # record that was stored meets itself.
        ordered = sorted(offers, key=lambda offer: offer[1].task_id)
        rows = session.values(sql.OFFER_ROW, [self._row(record, body) for _, record, body in ordered])
        stored = {row[0]: row[1:] for row in session.rows(sql.OFFER_HEAD + rows + sql.OFFER_TAIL)}
        refused = [record.task_id for _, record, _ in ordered if record.task_id not in stored]
        others = {row[0]: row for row in session.rows(sql.HELD, (refused,))} if refused else {}
        answer: dict[int, TaskRecord] = {}
        for place, record, _ in offers:
            if record.task_id in stored:
                queue, worker, enqueued_at, started_at = stored[record.task_id]
                answer[place] = with_carried(record, queue, worker, _utc(enqueued_at), _utc(started_at))
            elif record.task_id in others:
                try:
                    answer[place] = self._record(others[record.task_id])
                except StoreCorrupt as error:
                    giving_way(error)
                    session.execute(sql.REMOVE, (record.task_id, others[record.task_id][-1]))  # and offer again
        return answer

    def _row(self, record: TaskRecord, body: str) -> tuple[object, ...]:
        return (
            record.task_id,
            record.state.value,
            record.state.rank,
            record.attempt,
            record.queue,
            record.worker,
            record.enqueued_at,
            record.started_at,
            lifetime(record.state, self._result_ttl),
            body,
        )

    def _record(self, row: tuple[Any, ...]) -> TaskRecord:
        task_id, state, attempt, queue, worker, enqueued_at, started_at, text = row
        place = f"result backend {self.url}: table stem_tasks, task {task_id!r}"
        try:
            body = json_value(text)
        except FieldError as error:
            raise corrupt(place, text, error) from error
        return assembled(task_id, state, attempt, queue, worker, _utc(enqueued_at), _utc(started_at), body, place=place)

    # -- roster -----------------------------------------------------------------------------------------------------

    def beat(self, heartbeat: Heartbeat) -> datetime:
        rows = self._database.rows(sql.BEAT, _entry(heartbeat))
        self._prune_roster()
        stamped_at: datetime = rows[0][0].astimezone(timezone.utc)
        return stamped_at

    def offer(self, heartbeat: Heartbeat, *, dead: Heartbeat | None = None) -> tuple[datetime, Heartbeat | None]:
        # Two statements without a transaction: the first takes the id or doesn't, atomically; the second only asks
        # who has it. When that one has left in between, the first is tried again.
        as_seen = (None, None) if dead is None else (dead.boot, dead.timestamp)
        for _ in range(_ROUNDS):
            taken = self._database.rows(sql.OFFER, (*_entry(heartbeat), *as_seen))
            if taken:
                self._prune_roster()
                return taken[0][0].astimezone(timezone.utc), None
            found = self._database.rows(sql.HOLDER, (heartbeat.namespace, heartbeat.worker, heartbeat.boot))
            if found:
                worker, text, stamped_at, now = found[0]
                held = self._beats.one(heartbeat.namespace, worker, text, _us(stamped_at))
                if held is not None:
                    return now.astimezone(timezone.utc), held
                raise corrupt(
                    f"roster {self.url}: table stem_roster, worker {worker!r}", text, ValueError("no heartbeat")
                )
        raise StoreError(
            f"roster {self.url}: worker id {heartbeat.worker!r} could not be taken, and no worker holds it"
        )

    def leave(self, namespace: str, worker: str, boot: str) -> None:
        self._database.execute(sql.LEAVE, (namespace, worker, boot))

    def view(self, namespace: str) -> RosterView:
        rows = self._database.rows(sql.VIEW, (namespace,))
        now: datetime = rows[0][0].astimezone(timezone.utc)
        entries = ((worker, text, _us(stamped_at)) for _, worker, text, stamped_at in rows if worker is not None)
        beats, aside = self._beats.all(namespace, entries)
        return RosterView(beats, now, len(aside), aside)

    # -- both -------------------------------------------------------------------------------------------------------

    def check(self, namespace: str) -> list[str]:
        marker = f"stem-health-{chance.token_hex(8)}"

        def written(session: PostgresSession) -> None:
            for add, remove in sql.MARKERS:
                session.execute(add, (marker,))
                session.execute(remove, (marker,))

        self._database.write(written)
        return self._database.read(partial(warnings, keeps="task states"))

    def ping(self) -> None:
        self._database.rows("SELECT 1")

    def close(self) -> None:
        self._database.close()


def _distinct(offers: Sequence[_Offer]) -> Iterator[list[_Offer]]:
    """The offers in rounds without an id twice, each id's in order: one INSERT can't touch a row a second time."""
    rounds: list[list[_Offer]] = []
    seen: dict[str, int] = {}
    for offer in offers:
        number = seen.get(offer[1].task_id, 0)
        seen[offer[1].task_id] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(offer)
    return iter(rounds)


def _entry(beat: Heartbeat) -> tuple[object, ...]:
    return (
        beat.namespace,
        beat.worker,
        beat.boot,
        beat.interval * timeouts.STALE_INTERVALS,
        beat.lifetime,
        beat_text(beat),
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(timezone.utc)


def _us(moment: datetime) -> int:
    return epoch_us(moment.astimezone(timezone.utc))
