"""Every door against inputs a few changes away from valid ones, and against plain noise."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fuzz.mutation import mutated
from fuzz.targets import TARGETS, Target, load

DOORS: dict[str, Target] = {}
QUIET = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def door(name: str) -> Target:
    if name not in DOORS:
        DOORS[name] = load(name)
    return DOORS[name]


@pytest.mark.parametrize("name", [name for name, (_, _, is_json) in TARGETS.items() if is_json])
@QUIET
@given(data=st.data())
def test_g17_a_document_with_a_part_changed_is_refused_or_means_what_it_says(name: str, data: st.DataObject) -> None:
    target = door(name)
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    changed = mutated(data.draw(st.sampled_from(target.seeds)), 1 << 20, rng)
    if changed is not None:
        target(changed)


@pytest.mark.parametrize("name", TARGETS)
@QUIET
@given(noise=st.binary(max_size=200), place=st.integers(0, 10_000), number=st.integers(0, 100), cut=st.booleans())
@example(noise=b"", place=0, number=0, cut=True)
def test_g17_bytes_that_were_cut_or_scribbled_on_are_refused_or_mean_what_they_say(
    name: str, noise: bytes, place: int, number: int, cut: bool
) -> None:
    target = door(name)
    seed = target.seeds[number % len(target.seeds)]
    place %= len(seed) + 1
    target(seed[:place] + noise + (b"" if cut else seed[place:]))
