"""What a selector matches and what a rule strikes: pure, and by properties (G29)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_kombu.agent.active_rules import ActiveRules
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import FieldError
from stem_kombu.messages.celery_canvas import celery_origin
from stem_kombu.rule import Rule
from stem_kombu.selector import Selector, canonical, sent_at
from stem_kombu.signing.keyring import Untrusted
from stem_kombu.signing.rule_proofs import check_rule, signed_rule
from stem_kombu.task import CeleryOrigin, TaskMessage
from tests.signing.keys import ring, shared

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
TASK = TaskMessage(
    "t1", "mail.send", (), {"to": "ada", "n": 1, "deep": {"a": [1, 2]}}, queue="mail", enqueued_at=NOW,
    headers={"deploy": "bad", "size": 3},
    celery=None,
)  # fmt: skip
CELERYS = replace(TASK, celery=CeleryOrigin(root_id="r", parent_id="p", group="g"))

texts = st.text("ab.*?[]x", max_size=4)
plain = st.none() | st.booleans() | st.integers(-2, 2) | texts
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=2), max_leaves=3)
tasks = st.builds(
    lambda name, queue, headers, kwargs, sent, origin: replace(
        TASK, name=name or "n", queue=queue or "q", headers=headers, kwargs=kwargs, enqueued_at=sent, celery=origin
    ),
    texts,
    texts,
    st.dictionaries(texts, values, max_size=2),
    st.dictionaries(texts, values, max_size=2),
    st.none() | st.integers(-100, 100).map(lambda n: NOW + timedelta(seconds=n)),
    st.none()
    | st.builds(CeleryOrigin, root_id=st.none() | texts, parent_id=st.none() | texts, group=st.none() | texts),
)
selectors = st.builds(
    Selector,
    name=st.none() | texts,
    queue=st.none() | texts,
    headers=st.dictionaries(texts, texts, max_size=2).map(lambda found: tuple(sorted(found.items()))),
    kwargs=st.dictionaries(texts, values.map(canonical), max_size=2).map(lambda found: tuple(sorted(found.items()))),
    parent=st.none() | texts,
    root=st.none() | texts,
    group=st.none() | texts,
)


def rule(selector: Selector, **more: Any) -> Rule:
    return Rule("stem", "k", 7, NOW, NOW + HOUR, selector, **{"enqueued_before": NOW, **more})


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"name": "mail.send"}, True),
        ({"name": "mail.*", "queue": "m*"}, True),
        ({"name": "mail.*", "queue": "post"}, False),
        ({"name": "MAIL.send"}, False),
        ({"headers": {"deploy": "bad"}}, True),
        ({"headers": {"deploy": "bad", "none": ""}}, False),
        ({"headers": {"size": "3"}}, True),
        ({"kwargs": {"n": 1, "to": "ada"}}, True),
        ({"kwargs": {"n": True}}, False),
        ({"kwargs": {"n": 1.0}}, False),
        ({"kwargs": {"deep": {"a": [1, 2]}}}, True),
        ({"kwargs": {"deep": {"a": [2, 1]}}}, False),
        ({"root": "t1"}, True),
        ({"parent": "p"}, False),
        ({"name": "*", "group": "g"}, False),
    ],
)
def test_all_conditions_have_to_hold(given_: dict[str, Any], expected: bool) -> None:
    assert Selector.of(**given_).matches(TASK) is expected


def test_relatives_are_those_of_the_message() -> None:
    assert Selector.of(root="r", parent="p", group="g").matches(CELERYS)
    assert not Selector.of(root="t1").matches(CELERYS)


@given(selectors, tasks)
def test_g29_more_conditions_never_match_more(selector: Selector, task: TaskMessage) -> None:
    assert Selector().matches(task)
    for part in ("name", "queue", "parent", "root", "group"):
        assert replace(selector, **{part: None}).matches(task) or not selector.matches(task)
    for part in ("headers", "kwargs"):
        assert replace(selector, **{part: ()}).matches(task) or not selector.matches(task)
    assert selector.may_match(task.name) or not selector.matches(task)


@given(selectors)
def test_a_selector_comes_back_from_its_record(selector: Selector) -> None:
    assert Selector.from_record(selector.to_record()) == selector


@given(selectors, tasks, st.integers(-100, 100), st.booleans())
def test_g29_a_rule_touches_nothing_that_was_sent_after_its_cut_off(
    selector: Selector, task: TaskMessage, cut_off: int, undated: bool
) -> None:
    before = NOW + timedelta(seconds=cut_off)
    struck = rule(selector, enqueued_before=before, undated=undated).strikes(task)
    sent = sent_at(task)
    assert struck == (selector.matches(task) and (undated if sent is None else sent < before))


def test_g29_what_celery_sent_has_no_time_of_sending_whenever_it_was_first_seen() -> None:
    assert sent_at(TASK) == NOW and sent_at(CELERYS) is None
    late = rule(Selector.of(name="mail.*"), enqueued_before=NOW + HOUR)
    assert late.strikes(TASK) and not late.strikes(CELERYS)
    assert rule(Selector.of(name="mail.*"), undated=True).strikes(CELERYS)


@given(selectors.filter(bool))
def test_a_rule_comes_back_from_its_message(selector: Selector) -> None:
    made = rule(selector, terminate=True, undated=True, reason="INC-42", requested_by="ada", preview={"total": 3})
    back = Rule.from_message(made.to_message())
    assert back == made and back.preview == {"total": 3}


@pytest.mark.parametrize(
    "change",
    [
        {"selector": {}},
        {"selector": {"name": 3}},
        {"selector": {"unknown": "x"}},
        {"selector": {"headers": [["a"]]}},
        {"expires_at": None},
        {"terminate": 1},
    ],
)
def test_a_message_that_is_no_rule_is_refused(change: dict[str, object]) -> None:
    with pytest.raises((FieldError, ValueError)):
        Rule.from_message({**rule(Selector.of(name="a")).to_message(), **change})


@pytest.mark.parametrize("given_", [{"name": " "}, {"queue": ""}, {"headers": {str(n): "" for n in range(21)}}])
def test_a_condition_that_says_nothing_is_refused(given_: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Selector.of(**given_)


def test_a_rule_is_obeyed_as_its_author_signed_it() -> None:
    keyring = ring(shared("ops", key_scopes="ops:read,operate"))
    signed = signed_rule(rule(Selector.of(name="mail.*")), keyring)
    check_rule(replace(signed, version=9, stored_at=NOW + HOUR), keyring)
    for forged in (
        replace(signed, selector=Selector.of(name="*")),
        replace(signed, expires_at=NOW + 2 * HOUR),
        replace(signed, enqueued_before=NOW + HOUR),
        replace(signed, namespace="other"),
        replace(signed, over=True),
        replace(signed, proof=None),
    ):
        with pytest.raises(Untrusted):
            check_rule(forged, keyring)
    viewer = ring(shared("viewer", key_scopes="viewer:read"))
    with pytest.raises(Untrusted):
        signed_rule(rule(Selector.of(name="a")), viewer)


def test_a_worker_obeys_the_latest_version_of_each_rule_until_its_end() -> None:
    now = [NOW]
    rules = ActiveRules(lambda: now[0])
    assert rules.live == () and rules.match(TASK) is None
    early = replace(TASK, enqueued_at=NOW - HOUR)
    first = rule(Selector.of(name="mail.*"), reason="INC-42", terminate=True)
    assert rules.take([first]) and not rules.take([first])
    found = rules.match(early)
    assert found is not None
    assert (found.task_id, found.version, found.terminate, found.reason) == ("t1", 7, True, "INC-42")
    assert rules.match(TASK) is None and rules.match(replace(early, name="other")) is None
    assert rules.take([replace(first, version=8, over=True)])
    assert rules.live == () and rules.match(early) is None
    assert not rules.take([first]), "an older version does not bring it back"
    rules.take([replace(first, key="k2")])
    now[0] = NOW + HOUR
    assert rules.match(early) is None
    rules.take([])
    assert rules.live == ()


def test_a_header_is_compared_with_each_value_of_a_stamp_of_celery_s() -> None:
    stamped = replace(CELERYS, celery=CeleryOrigin(stamps={"deal": ("d-1", "2")}))
    assert Selector.of(headers={"deal": "d-1"}).matches(stamped)
    assert Selector.of(headers={"deal": "2", "deploy": "bad"}).matches(stamped)
    assert not Selector.of(headers={"deal": "d-3"}).matches(stamped)
    assert not Selector.of(headers={"deal": "d-1"}).matches(TASK)


def test_g29_a_celery_task_has_a_time_of_sending_if_its_sender_wrote_it() -> None:
    dated = replace(CELERYS, celery=CeleryOrigin(dated=True))
    assert (sent_at(CELERYS), sent_at(dated)) == (None, NOW)
    assert rule(Selector.of(name="mail.*"), enqueued_before=NOW + HOUR).strikes(dated)
    assert not rule(Selector.of(name="mail.*"), enqueued_before=NOW).strikes(dated)


@pytest.mark.parametrize(
    ("stamps", "read"),
    [
        ({"deal": ["d-1", 2]}, {"deal": ("d-1", "2")}),
        ({"deal": "d-1", "n": None}, {"deal": ("d-1",), "n": ("null",)}),
        (["deal"], {}),
        ("deal", {}),
        (None, {}),
    ],
)
def test_stamps_are_read_from_headers(stamps: object, read: dict[str, tuple[str, ...]]) -> None:
    assert celery_origin({"stamps": stamps}, {}).stamps == read
