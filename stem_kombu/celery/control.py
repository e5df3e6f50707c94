"""``app.control`` of a Celery application that has Stem: a revoke is stored before it is broadcast, so that it also
reaches the workers that are down just then."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.app.control import Control
from kombu.utils.imports import symbol_by_name

from stem_kombu import timeouts
from stem_kombu.celery.configuration import settings_of
from stem_kombu.celery.saving import Saver
from stem_kombu.control.stamped_rules import StampDraft, stamps_of
from stem_kombu.errors import ConfigurationError
from stem_kombu.revocation import RevocationDraft, storable_ids
from stem_kombu.settings import Settings
from stem_kombu.volatile import NOT_DURABLE

if TYPE_CHECKING:
    from celery import Celery

    from stem_kombu.control.client.selecting import SelectorClient

logger = logging.getLogger(__name__)

#: The reason of a revocation that came as Celery's own command, which has no room for one.
THROUGH_CELERY = "revoked through Celery"


class Savers(NamedTuple):
    """What stores revocations by id, and by stamp."""

    ids: Saver[RevocationDraft]
    stamps: Saver[StampDraft]
    client: SelectorClient

    def close(self) -> None:
        """Give what waits a few seconds to be stored, then let the connections go."""
        self.ids.close(timeouts.CELERY_LAST_SAVES)
        self.stamps.close(timeouts.CELERY_LAST_SAVES)
        self.client.close()


class DurableRevokes:
    """Goes before a Celery ``Control`` among the bases of a class. Where there are keys, what is stored is signed, and
    workers learn of it from the store alone: what Celery broadcasts is not signed.
    """

    app: Celery

    def revoke(
        self, task_id: Any, destination: object = None, terminate: bool = False, *args: object, **kwargs: object
    ) -> Any:
        """See :meth:`celery.app.control.Control.revoke`.

        Where the store does not answer within a second, the workers that are up receive the revoke all the same, a warning is
        logged, and it is stored as soon as the store answers, by this process and by those workers. Raises
        :class:`~stem_kombu.signing.keyring.Untrusted` where the fleet would not obey this application, and then it neither
        stored nor said anything; and :class:`ConfigurationError` for settings that can't be used, after the broadcast.
        """
        ids = [task_id] if isinstance(task_id, str) else [str(one) for one in task_id or ()]

        def store() -> str | None:
            good, who = list(storable_ids(ids)), _requester()
            drafts = [RevocationDraft(one, bool(terminate), THROUGH_CELERY, who, None) for one in good]
            savers = self._stem_savers
            trouble = NOT_DURABLE if savers is None else savers.ids.save(drafts)
            if len(good) < len(ids):
                raise ConfigurationError(
                    f"{len(ids) - len(good)} of {len(ids)} ids can't be stored, the others are",
                    hint="an id is one line of plain text of at most 512 characters",
                )
            return trouble

        def broadcast() -> object:
            return super(DurableRevokes, self).revoke(task_id, destination, terminate, *args, **kwargs)  # type: ignore[misc]

        return _first_stored(store, broadcast, f"{len(ids)} tasks")

    def revoke_by_stamped_headers(
        self, headers: object, destination: object = None, terminate: bool = False, *args: object, **kwargs: object
    ) -> object:
        """See :meth:`celery.app.control.Control.revoke_by_stamped_headers`. Stored as rules for 7 days, one for each value of a
        stamp. Raises as :meth:`revoke` does."""
        stamps = stamps_of(headers)

        def store() -> str | None:
            who, savers = _requester(), self._stem_savers
            drafts = [StampDraft(*stamp, bool(terminate), THROUGH_CELERY, who) for stamp in stamps]
            return NOT_DURABLE if savers is None else savers.stamps.save(drafts)

        def broadcast() -> object:
            control: Control = super(DurableRevokes, self)
            return control.revoke_by_stamped_headers(headers, destination, terminate, *args, **kwargs)

        return _first_stored(store, broadcast, f"{len(stamps)} stamps")

    @property
    def _stem_savers(self) -> Savers | None:
        """Made when first needed, in each process: nearly every program that sends tasks never revokes one. ``None`` for a
        fleet without a revoke store."""
        held: tuple[int, Savers | None] | None = self.__dict__.get("_stem_held")
        if held is None or held[0] != os.getpid():
            settings = settings_of(self.app, **getattr(self.app, "stem_options", {}))
            savers = _savers(settings) if settings.durable else None
            held = self.__dict__["_stem_held"] = os.getpid(), savers
        return held[1]


def _savers(settings: Settings) -> Savers:
    from stem_kombu.control.client.selecting import SelectorClient  # a worker has this module, and no use for a client

    client, patience = SelectorClient(settings), timeouts.CELERY_SAVE
    savers = Savers(Saver(client.save, patience=patience), Saver(client.save_stamped, patience=patience), client)
    atexit.register(savers.close)
    return savers


def _first_stored(store: Callable[[], str | None], broadcast: Callable[[], object], what: str) -> object:
    """What the broadcast returns, after the storing; a setting that can't be used is raised after it."""
    problem: ConfigurationError | None = None
    trouble: str | None = None
    try:
        trouble = store()
    except ConfigurationError as error:
        problem = error
    answer = broadcast()
    if problem is not None:
        raise problem
    if trouble is not None:
        logger.warning("revoke of %s is not durable yet: %s", what, trouble)
    return answer


def _requester() -> str:
    from stem_kombu.control.client.command_request import default_requester

    return default_requester()


class DurableControl(DurableRevokes, Control):  # type: ignore[misc]  # Celery publishes no types
    """Celery's own, with durable revokes."""


def durable(control: object) -> type:
    """That class of a ``Control``, or its name, with durable revokes."""
    base: type = symbol_by_name(control)
    return base if issubclass(base, DurableRevokes) else type(base.__name__, (DurableRevokes, base), {})
