"""The planted mistakes still have their places, and some of them are planted; ``make attacks`` plants all."""

from __future__ import annotations

import pytest

from tests.signing.mutants import MUTANTS, PROOFS, ROOT, Mutant, caught, copied, planted


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_mistake_has_its_place_in_the_code(mutant: Mutant) -> None:
    assert planted(mutant, (ROOT / mutant.path).read_text()) != (ROOT / mutant.path).read_text()


def test_there_are_twenty_planted_mistakes_at_least_and_each_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20


def test_the_attacks_notice_a_mistake() -> None:
    """Two that need no server, as a sign that the harness works; and a change that is none is not noticed."""
    quick = {"an unlisted key has every scope", "a proof is good in every namespace"}
    with copied() as folder:
        for mutant in (one for one in MUTANTS if one.name in quick):
            found, by = caught(mutant, folder)
            assert found, by
        harmless = Mutant(
            "none",
            "stem_kombu/signing/seal.py",
            "COMMAND, REPLY = ",
            "COMMAND, REPLY =  ",
            PROOFS,
        )
        assert not caught(harmless, folder)[0]
