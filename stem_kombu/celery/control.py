"""``app.control`` of a Celery application that has Stem: a revoke is stored before it is broadcast, so that it also
reaches the workers that are down just then."""

from __future__ import annotations

import atexit
import logging
import os
from typing import Any

from celery.app.control import Control
from kombu.utils.imports import symbol_by_name

from stem_kombu import timeouts
from stem_kombu.celery.configuration import settings_of
from stem_kombu.celery.saving import Saver
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.command_request import default_requester
from stem_kombu.errors import ConfigurationError
from stem_kombu.revocation import RevocationDraft, storable_ids
from stem_kombu.volatile import NOT_DURABLE

logger = logging.getLogger(__name__)

#: The reason of a revocation that came as Celery's own command, which has no room for one.
THROUGH_CELERY = "revoked through Celery"


class DurableRevokes:
    """Goes before a Celery ``Control`` among the bases of a class. Where there are keys, what is stored is signed, and
    workers learn of it from the store alone: what Celery broadcasts is not signed.
    """

    app: Any

    def revoke(self, task_id: Any, destination: Any = None, terminate: bool = False, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`celery.app.control.Control.revoke`.

        Where the store does not answer within a second, the workers that are up receive the revoke all the same, a warning is
        logged, and it is stored as soon as the store answers, by this process and by those workers. Raises
        :class:`~stem_kombu.signing.keyring.Untrusted` where the fleet would not obey this application, and then it neither
        stored nor said anything; and :class:`ConfigurationError` for settings that can't be used, after the broadcast.
        """
        ids = [task_id] if isinstance(task_id, str) else [str(one) for one in task_id or ()]
        problem: ConfigurationError | None = None
        trouble: str | None = None
        try:
            who = default_requester()
            good = list(storable_ids(ids))
            drafts = [RevocationDraft(one, bool(terminate), THROUGH_CELERY, who, None) for one in good]
            saver = self._stem_saver
            trouble = NOT_DURABLE if saver is None else saver.save(drafts)
            if len(good) < len(ids):
                raise ConfigurationError(
                    f"{len(ids) - len(good)} of {len(ids)} ids can't be stored, the others are",
                    hint="an id is one line of plain text of at most 512 characters",
                )
        except ConfigurationError as error:
            problem = error
        answer = super().revoke(task_id, destination, terminate, *args, **kwargs)  # type: ignore[misc]
        if problem is not None:
            raise problem
        if trouble is not None:
            logger.warning("revoke of %d tasks is not durable yet: %s", len(ids), trouble)
        return answer

    @property
    def _stem_saver(self) -> Saver | None:
        """Made when first needed, in each process: nearly every program that sends tasks never revokes one. ``None`` for a
        fleet without a revoke store."""
        held: tuple[int, Saver | None] | None = self.__dict__.get("_stem_held")
        if held is None or held[0] != os.getpid():
            settings = settings_of(self.app, **getattr(self.app, "stem_options", {}))
            saver = Saver(ControlClient(settings).save, patience=timeouts.CELERY_SAVE) if settings.durable else None
            held = self.__dict__["_stem_held"] = os.getpid(), saver
            if saver is not None:
                atexit.register(saver.close, timeouts.CELERY_LAST_SAVES)
        return held[1]


class DurableControl(DurableRevokes, Control):  # type: ignore[misc]  # Celery publishes no types
    """Celery's own, with durable revokes."""


def durable(control: Any) -> type:
    """That class of a ``Control``, or its name, with durable revokes."""
    base: type = symbol_by_name(control)
    return base if issubclass(base, DurableRevokes) else type(base.__name__, (DurableRevokes, base), {})
