"""Many revocations of one namespace, column by column: a million are read and taken into memory without an object for each.

A store reads its rows in pages, and a worker the revocations of a command. A whole column is checked at a time, which costs a
tenth of checking each record. What is no such page is read record by record: records with proofs, and pages with a record that
can't be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from itertools import chain, compress, islice
from operator import itemgetter, lt
from typing import TypeAlias, TypeGuard, overload

from stem_kombu.clock import epoch_us, from_epoch_us
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import UNLIMITED, UNSTORABLE, FieldError, is_text, mapping, moment
from stem_kombu.revocation import TASK_ID_LIMIT, TEXT_LIMIT, VERSION_LIMIT, Revocation, checked_task_id
from stem_kombu.row_block import NEVER, is_same

_FIRST_US = epoch_us(datetime.min.replace(tzinfo=timezone.utc))
_LAST_US = epoch_us(datetime.max.replace(tzinfo=timezone.utc))

#: The fields of a record as JSON (:meth:`Revocation.to_record`): its namespace, and then the columns of a page.
_FIELDS = "namespace", "task_id", "version", "issued_at", "terminate", "reason", "requested_by", "expires_at"
_fields_of = itemgetter(*_FIELDS)

#: Task ids, versions, times of issue, ``terminate``, reasons, requesters and times of expiry.
Columns: TypeAlias = tuple[
    Sequence[str],
    Sequence[int],
    Sequence[int],
    Sequence[bool],
    Sequence[str | None],
    Sequence[str | None],
    Sequence[int],
]


class RevocationPage(Sequence[Revocation]):
    """At least one record without proofs, in ascending order of version; as a sequence it makes each record when it is asked for.

    The columns are as :class:`Revocation` has them, times in microseconds since the epoch, :data:`NEVER` for no expiry.
    Make one by :func:`page_of`.
    """

    __slots__ = ("expires_us", "issued_us", "namespace", "reasons", "requesters", "task_ids", "terminate", "versions")

    def __init__(self, namespace: str, columns: Columns) -> None:
        self.namespace = namespace
        self.task_ids, self.versions, self.issued_us, self.terminate, self.reasons, self.requesters, self.expires_us = (
            columns
        )

    def __len__(self) -> int:
        return len(self.task_ids)

    @overload
    def __getitem__(self, at: int) -> Revocation: ...

    @overload
    def __getitem__(self, at: slice) -> list[Revocation]: ...

    def __getitem__(self, at: int | slice) -> Revocation | list[Revocation]:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        expires_us = self.expires_us[at]
        return Revocation(
            self.namespace,
            self.task_ids[at],
            self.versions[at],
            from_epoch_us(self.issued_us[at]),
            self.terminate[at],
            self.reasons[at],
            self.requesters[at],
            None if expires_us == NEVER else from_epoch_us(expires_us),
        )

    def are_live(self, now_us: int) -> bool:
        """Whether none of the records is expired (:meth:`Revocation.is_expired`)."""
        soonest = min(self.expires_us)
        return soonest > now_us and (
            soonest >= max(self.issued_us) or not any(map(lt, self.expires_us, self.issued_us))
        )

    def live(self, now_us: int) -> Sequence[Revocation]:
        """The records that are not expired."""
        if self.are_live(now_us):
            return self
        chosen = [end > now_us and end >= issued for end, issued in zip(self.expires_us, self.issued_us, strict=True)]
        if not any(chosen):
            return ()
        columns = (
            list(compress(self.task_ids, chosen)),
            list(compress(self.versions, chosen)),
            list(compress(self.issued_us, chosen)),
            list(compress(self.terminate, chosen)),
            list(compress(self.reasons, chosen)),
            list(compress(self.requesters, chosen)),
            list(compress(self.expires_us, chosen)),
        )
        return RevocationPage(self.namespace, columns)


def page_of(namespace: str, columns: Sequence[Sequence[object]]) -> RevocationPage | None:
    """The page of these columns: task ids, versions, times of issue, ``terminate``, reasons, requesters and times of expiry.

    ``None`` where one of the values is none that a store can have given, or versions don't ascend: read one by one, it is known
    which.
    """
    if not columns:
        return None
    task_ids, versions, issued_us, terminate, reasons, requesters, ends = columns
    if (
        _are_ids(task_ids)
        and _are_numbers(versions, 0, VERSION_LIMIT - 1)
        and all(map(lt, versions, islice(versions, 1, None)))
        and _are_numbers(issued_us, _FIRST_US, _LAST_US)
        and _are_flags(terminate)
        and _are_texts(reasons)
        and _are_texts(requesters)
        and (expires_us := _ends_of(ends)) is not None
    ):
        return RevocationPage(namespace, (task_ids, versions, issued_us, terminate, reasons, requesters, expires_us))
    return None


def from_records(records: Sequence[object]) -> Sequence[Revocation]:
    """The revocations of their JSON forms; raises as :meth:`Revocation.from_record` does."""
    page = _page_of_records(records) if len(records) > 1 else None  # one takes fewer steps by itself
    if page is not None:
        return page
    return tuple([Revocation.from_record(mapping(record, "a revocation")) for record in records])


def _page_of_records(records: Sequence[object]) -> RevocationPage | None:
    """The page of several records; ``None`` where they are none: with proofs, of several namespaces, or one can't be read."""
    if not _are_objects(records) or set(map(len, records)) != {len(_FIELDS)}:
        return None
    try:
        columns = zip(*map(_fields_of, records), strict=True)
        namespaces, task_ids, versions, issued, terminate, reasons, requesters, ends = columns
        # All records of a batch were issued at one time, and most end at one.
        times = {said: None if said is None else epoch_us(moment(said, "a time")) for said in {*issued, *ends}}
    except (KeyError, TypeError, FieldError):
        return None
    if not is_same(namespaces) or not is_text(namespaces[0], most=UNLIMITED, without=UNSTORABLE):
        return None
    issued_us, ends_us = [times[said] for said in issued], [times[said] for said in ends]
    return page_of(namespaces[0], (task_ids, versions, issued_us, terminate, reasons, requesters, ends_us))


def of_namespace(revocations: Sequence[Revocation], namespace: str) -> Sequence[Revocation]:
    """Those of that namespace."""
    if isinstance(revocations, RevocationPage):
        return revocations if revocations.namespace == namespace else ()
    return [revocation for revocation in revocations if revocation.namespace == namespace]


def proofs_in(revocations: Iterable[Revocation]) -> Iterable[str]:
    """The proofs of all the revocations."""
    if isinstance(revocations, RevocationPage):
        return ()
    return chain.from_iterable([revocation.proofs for revocation in revocations])


def live(page: Sequence[Revocation], now: datetime) -> Sequence[Revocation]:
    """Those records of a page that are not expired."""
    if isinstance(page, RevocationPage):
        return page.live(epoch_us(now))
    return [record for record in page if not record.is_expired(now)]


def ids_of(revocations: Iterable[Revocation]) -> Sequence[str]:
    """The task ids of the revocations, in their order."""
    if isinstance(revocations, RevocationPage):
        return revocations.task_ids
    return [revocation.task_id for revocation in revocations]


def versions_of(revocations: Iterable[Revocation]) -> Sequence[int]:
    """The versions of the revocations, in their order."""
    if isinstance(revocations, RevocationPage):
        return revocations.versions
    return [revocation.version for revocation in revocations]


def _ends_of(ends: Sequence[object]) -> Sequence[int] | None:
    """Times of expiry with :data:`NEVER` in the place of ``None``; ``None`` where one is no time."""
    if (never := ends.count(None)) == len(ends):
        return [NEVER] * never
    timed = [end for end in ends if end is not None] if never else ends
    if not _are_numbers(timed, _FIRST_US, _LAST_US):
        return None
    each = iter(timed)
    return timed if not never else [NEVER if end is None else next(each) for end in ends]


def _are_ids(values: Sequence[object]) -> TypeGuard[Sequence[str]]:
    """Whether each is a task id (:func:`checked_task_id`)."""
    if not _are_text(values):
        return False
    joined = "".join(values)
    if joined.isascii() and joined.isprintable() and " " not in joined:
        return "" not in values and max(map(len, values)) <= TASK_ID_LIMIT
    try:
        return all(map(checked_task_id, values))
    except ConfigurationError:
        return False


def _are_objects(values: Sequence[object]) -> TypeGuard[Sequence[dict[str, object]]]:
    return set(map(type, values)) == {dict}


def _are_text(values: Sequence[object]) -> TypeGuard[Sequence[str]]:
    return set(map(type, values)) == {str}


def _are_numbers(values: Sequence[object], least: int, most: int) -> TypeGuard[Sequence[int]]:
    if set(map(type, values)) != {int}:
        return False
    numbers: Sequence[int] = values[:1] if is_same(values) else values  # type: ignore[assignment]
    return min(numbers) >= least and max(numbers) <= most


def _are_flags(values: Sequence[object]) -> TypeGuard[Sequence[bool]]:
    return set(map(type, values)) == {bool}


def _are_texts(values: Sequence[object]) -> TypeGuard[Sequence[str | None]]:
    """Whether each is a reason or a requester, or ``None``. Nearly all are the same."""
    try:
        different = set(values[:1] if is_same(values) else values)
    except TypeError:  # a list or an object
        return False
    return all(value is None or is_text(value, least=0, most=TEXT_LIMIT, without=UNSTORABLE) for value in different)
