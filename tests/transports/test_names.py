"""Names of queues and exchanges."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_kombu.errors import ConfigurationError
from stem_kombu.transports import names

identities = st.text(min_size=1, max_size=80)


@given(identities, identities)
def test_every_control_name_fits_every_transport(namespace: str, worker: str) -> None:
    made = [
        names.broadcast_exchange(namespace).name,
        names.heartbeat_exchange(namespace).name,
        names.broadcast_queue(namespace, worker).name,
        names.inbox_name(namespace, worker),
        names.reply_name(namespace, worker),
        names.heartbeat_queue(namespace, worker).name,
    ]
    assert all(re.fullmatch(r"[a-z0-9-]{1,63}", name) for name in made)
    assert len(set(made)) == len(made)


@given(st.tuples(identities, identities), st.tuples(identities, identities))
def test_two_workers_never_share_a_queue(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (names.inbox_name(*one) == names.inbox_name(*other)) == (one == other)
    assert (names.broadcast_queue(*one).name == names.broadcast_queue(*other).name) == (one == other)


def test_ids_that_only_differ_in_what_is_not_allowed_in_names_have_names_of_their_own() -> None:
    ids = ["render@host", "render.host", "render-host", "RENDER-HOST", "render host"]
    assert len({names.inbox_name("stem", worker) for worker in ids}) == len(ids)


def test_a_plain_namespace_can_be_read_in_its_names() -> None:
    assert names.broadcast_exchange("shop").name == "stem-shop-ctl"
    assert names.broadcast_queue("shop", "w1").name.startswith("stem-shop-ctl-b-w1-")


@pytest.mark.parametrize("maker", [names.broadcast_queue, names.inbox_queue, names.reply_queue, names.heartbeat_queue])
def test_control_queues_are_never_transient_and_always_expire(maker: object) -> None:
    queue = maker("stem", "w1")  # type: ignore[operator]
    assert (queue.durable, queue.auto_delete, queue.exclusive, queue.expires) == (True, True, False, 60.0)


def test_an_inbox_is_reached_by_its_name_through_the_default_exchange() -> None:
    queue = names.inbox_queue("stem", "w1")
    assert not queue.exchange.name
    assert queue.name == names.inbox_name("stem", "w1")


@pytest.mark.parametrize("name", ["", " ", "a\x00b", "a\x06\x16b", "ä" * 128, "amq.direct", " lead", "trail "])
def test_a_task_queue_with_an_impossible_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError):
        names.task_queue(name)


@pytest.mark.parametrize("name", ["default", "shop.default", "high-priority", "Überweisung", "a" * 255])
def test_a_task_queue_is_called_as_given(name: str) -> None:
    queue = names.task_queue(name)
    made: Any = queue
    assert (made.name, made.durable, made.auto_delete, made.expires) == (name, True, False, None)
