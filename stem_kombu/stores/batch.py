"""What every store does with a batch before it touches anything: check it, make it distinct, and number it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain

from stem_kombu.bound import joined
from stem_kombu.clock import epoch_us
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import UNSTORABLE, any_text, items, json_value
from stem_kombu.revocation import VERSION_LIMIT, Revocation, RevocationDraft, merge

#: Longest life of a revocation that expires at all, in seconds: 100 years. Whole microseconds of times within it stay
#: below 2**53, so that Lua's and JSON's doubles hold them exactly.
LONGEST_LIFE = 100 * 365 * 86_400.0
#: A counter from here on is damage and no counter: so many versions before 2**53, which no clock reaches in 200 years.
CEILING = VERSION_LIMIT - 2**40
#: Below every number that a column for versions can hold.
BEFORE_ALL = -(2**63)


def folded(drafts: Iterable[RevocationDraft]) -> list[RevocationDraft]:
    """The drafts, checked, one per task id in the order of first mention.

    Merging the folded draft gives what merging each draft in turn would give: ``terminate`` sticks, the longest life
    wins, later texts replace earlier ones. Raises :class:`ConfigurationError` for a life that is not positive and at
    most a hundred years, and for text that not every store can hold (NUL, lone surrogates).
    """
    distinct: dict[str, RevocationDraft] = {}
    for draft in drafts:
        _check(draft)
        earlier = distinct.get(draft.task_id)
        distinct[draft.task_id] = draft if earlier is None else _fold(earlier, draft)
    return list(distinct.values())


def sane_version(counter: object, highest: object) -> int:
    """The highest version that was given, by a store's counter and by its records; a damaged one of them does not count."""
    return max((one for one in (counter, highest) if type(one) is int and 0 <= one < CEILING), default=0)


def next_version(highest: int, now: datetime) -> int:
    """The version of the next record when ``highest`` is the highest one that the store remembers.

    It is at least the store's time in microseconds, so that versions go on rising even when the store itself forgot
    some: a Redis that restarted from an old snapshot or failed over to a replica that lagged, a database restored from
    a backup, a file that was deleted. A worker that asks for "everything after version V" would otherwise skip what
    was revoked since, for V and more records. A clock that goes back does no harm: the remembered one counts then.
    """
    return max(highest, epoch_us(now)) + 1


def merged(
    drafts: Sequence[RevocationDraft], held: Mapping[str, Revocation], *, namespace: str, highest: int, now: datetime
) -> list[Revocation]:
    """The records that the store must hold after these distinct drafts, numbered in order from :func:`next_version`."""
    first = next_version(highest, now)
    return [
        merge(held.get(draft.task_id), draft, namespace=namespace, version=first + place, now=now)
        for place, draft in enumerate(drafts)
    ]


def life_us(seconds: float | None) -> int | None:
    """``expires_in`` in whole microseconds, rounded as :func:`~stem_kombu.revocation.merge` rounds it."""
    return None if seconds is None else timedelta(seconds=seconds) // timedelta(microseconds=1)


def proofs_text(record: Revocation) -> str | None:
    """A record's proofs as one text for a column, ``None`` where it has none."""
    return json.dumps(record.proofs, separators=(",", ":")) if record.proofs else None


def proofs_of(text: str | None) -> tuple[str, ...]:
    """The proofs of such a text; raises :class:`~stem_kombu.fields.FieldError` or ``TypeError`` when it is none."""
    proofs = [] if text is None else items(json_value(text), "proofs")
    return tuple(any_text(proof, "a proof") for proof in proofs)


def _fold(earlier: RevocationDraft, later: RevocationDraft) -> RevocationDraft:
    lives = (earlier.expires_in, later.expires_in)
    return RevocationDraft(
        task_id=later.task_id,
        terminate=earlier.terminate or later.terminate,
        reason=earlier.reason if later.reason is None else later.reason,
        requested_by=earlier.requested_by if later.requested_by is None else later.requested_by,
        expires_in=None if None in lives else max(life for life in lives if life is not None),
        proofs=tuple(chain.from_iterable(joined(earlier.proofs, later.proofs))),
    )


def _check(draft: RevocationDraft) -> None:
    life = draft.expires_in
    if life is not None and not (math.isfinite(life) and 1e-6 <= life <= LONGEST_LIFE):
        raise ConfigurationError(
            f"revocation of {draft.task_id!r}: it can't expire in {life:g} seconds",
            hint="give a positive time of at most 100 years, or none for a revocation that never expires",
        )
    for name, text in (("reason", draft.reason), ("requested_by", draft.requested_by)):
        if text is not None and UNSTORABLE.search(text):
            raise ConfigurationError(
                f"revocation of {draft.task_id!r}: {name} {text!r} holds a character that can't be stored",
                hint="leave out NUL characters and lone surrogates",
            )
