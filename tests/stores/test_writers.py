"""What any writer writes, every reader reads (G37): through Celery's panel, the client, the Python face and endorsement."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stem_kombu.celery.step import _make_revoke_durable
from stem_kombu.celery_monitors.commands import Panel
from stem_kombu.celery_monitors.verbs import Changes
from stem_kombu.errors import StemError
from stem_kombu.revocation import Revocation, RevocationDraft, storable_ids
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.registry import open_revoke_store

_names = itertools.count()

#: What tools send in the place of a flag, and callers in the place of what is documented.
flags = st.sampled_from([True, False, 0, 1, None, "", "yes", 2, [], 0.0])
ids = st.one_of(
    st.text(min_size=1, max_size=30),
    st.sampled_from(
        ["a" * 512, "a" * 513, "", "  ", "näme/🦑", 'q"\\/{}é', "a\u2028b", "\ud800", "a\0b", "a\nb", "日本", "-"]
    ),
    st.integers(-5, 5),
    st.none(),
)
texts = st.one_of(
    st.none(),
    st.text(max_size=40),
    st.sampled_from(["r" * 2000, "r" * 2001, "é" * 2000, "a\0b", "\udcff", "\x1b[31m", '{"a":1}', "\u2028"]),
    st.integers(),
    st.binary(max_size=3),
)
lives = st.one_of(
    st.none(),
    st.floats(),
    st.integers(-5, 10**12),
    st.sampled_from([10**400, 1e-9, 1e-6, 0, "5", True, 3.2e9]),
)
proofs = st.lists(
    st.one_of(
        st.text(max_size=10),
        st.just('{"t":1,"e":null,"x":true,"r":null,"q":null,"s":"hmac-sha256:ops:AA=="}'),
        st.integers(),
    ),
    max_size=20,
)


@pytest.fixture(scope="module")
def stores(redis_server: Any, postgres_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder: Path = tmp_path_factory.mktemp("writers")
    redis_server.start()
    postgres_server.start()
    postgres = postgres_server.new_database()
    yield [
        "memory://writers",
        f"sqlite://{folder}/revokes.db",
        f"file://{folder}/revokes.stem",
        redis_server.new_database(),
        postgres,
    ]
    postgres_server.drop_database(postgres)


def check_that_all_read(stores: list[RevokeStore], namespace: str, saved: list[list[Revocation]]) -> None:
    for store, records in zip(stores, saved, strict=True):
        held = {record.task_id: record for record in records}
        assert {record.task_id: record for record in store.since(namespace, 0)} == held, store.url
        assert store.quarantine.of(namespace) == (), store.url
        for record in held.values():
            assert Revocation.from_record(json.loads(json.dumps(record.to_message()))) == record
            assert store.glance(namespace, [record.task_id]).held in ({record.task_id: record}, None)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(ids, flags, texts, texts, lives, proofs), min_size=1, max_size=3))
def test_g37_what_the_python_face_takes_every_store_can_read(stores: list[str], given_drafts: list[Any]) -> None:
    namespace = f"python-{next(_names)}"
    with ExitStack() as stack:
        opened = [open_revoke_store(url) for url in stores]
        for store in opened:
            stack.callback(store.close)
        saved: list[list[Revocation]] = [[] for _ in opened]
        for asked in given_drafts:
            try:
                draft = RevocationDraft(*asked)
            except StemError:
                continue  # refused at the door, with a sentence
            for store, records in zip(opened, saved, strict=True):
                try:
                    (record,) = store.save(namespace, [draft])
                except StemError:
                    continue
                records[:] = [one for one in records if one.task_id != record.task_id] + [record]
        assert len({len(records) for records in saved}) == 1  # every store takes the same
        check_that_all_read(opened, namespace, saved)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(task_ids=st.lists(ids, max_size=4) | ids, terminate=flags, kills=st.booleans(), through=st.booleans())
def test_g37_what_comes_through_celerys_remote_control_every_store_can_read(
    stores: list[str], task_ids: Any, terminate: Any, kills: bool, through: bool
) -> None:
    """Flower's API sends 0 and null; one bad id of several does not keep the others from being stored."""
    namespace = f"celery-{next(_names)}"
    given_ids = task_ids if isinstance(task_ids, (str, list)) else []
    wanted = set(storable_ids([given_ids] if isinstance(given_ids, str) else given_ids))
    with ExitStack() as stack:
        opened = [open_revoke_store(url) for url in stores]
        saved: list[list[Revocation]] = []
        for store in opened:
            stack.callback(store.close)
            drafts: list[RevocationDraft] = []
            if through:
                view: Any = SimpleNamespace(identity=SimpleNamespace(worker="node"))
                changes = Changes(drafts.extend, list)  # type: ignore[arg-type]
                panel = Panel("node", view, list, changes, lambda: None)
                panel.handlers()["revoke"](None, task_id=given_ids, terminate=terminate)
            else:
                _celery_revoke(given_ids, terminate, kills, drafts)
            assert {draft.task_id for draft in drafts} == wanted
            assert all(type(draft.terminate) is bool for draft in drafts)
            saved.append(store.save(namespace, drafts))
        check_that_all_read(opened, namespace, saved)


def _celery_revoke(task_ids: Any, terminate: Any, kills: bool, drafts: list[RevocationDraft]) -> None:
    """Celery's own verb in a worker that has Stem."""
    from celery import Celery
    from celery.worker.control import Panel as Verbs

    def make_durable(ids: list[str], *, terminate: bool) -> None:
        drafts.extend(RevocationDraft(one, terminate) for one in storable_ids(ids))

    before = dict(Verbs.data)
    try:
        Verbs.data |= {name: lambda state, *_, **__: {"ok": "told"} for name in ("revoke", "terminate")}
        agent = SimpleNamespace(kills=kills, make_durable=make_durable, why=str)
        _make_revoke_durable(agent)  # type: ignore[arg-type]
        worker = SimpleNamespace(app=Celery("writers", set_as_current=False))
        Verbs.data["revoke"](worker, task_ids, terminate=terminate)
    finally:
        Verbs.data.clear()
        Verbs.data.update(before)
