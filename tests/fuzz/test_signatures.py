"""A slice of what ``make fuzz`` does a million times: changed messages, none of which may be accepted."""

from __future__ import annotations

from fuzz.signatures import KINDS, accepted


def test_g12_no_changed_message_is_accepted() -> None:
    done, found = accepted(7_000, seed=20260131)

    assert done == 7_000
    assert found == []


def test_what_is_honest_is_accepted() -> None:
    for kind in KINDS:
        assert [kind.accepts(one) for one in kind.seeds].count(None) == 0
