"""``app.control`` of a Celery application that has Stem: a revoke is stored before it is broadcast, so that it also
reaches the workers that are not there to hear it."""

from __future__ import annotations

import functools
from typing import Any

from celery.app.control import Control
from kombu.utils.imports import symbol_by_name

from stem_kombu.celery.configuration import settings_of
from stem_kombu.control.question import default_requester
from stem_kombu.errors import StemError
from stem_kombu.revocation import RevocationDraft
from stem_kombu.signing.configuration import open_keyring
from stem_kombu.signing.keyring import Keyring
from stem_kombu.signing.proofs import signed_drafts
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.registry import open_revoke_store

#: The reason of a revocation that came as Celery's own command, which has no room for one.
THROUGH_CELERY = "revoked through Celery"


class DurableRevokes:
    """Goes before a Celery ``Control`` among the bases of a class. Where there are keys, what is stored is signed, and
    workers learn of it from the store alone: what Celery broadcasts is not signed.
    """

    app: Any

    def revoke(self, task_id: Any, destination: Any = None, terminate: bool = False, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`celery.app.control.Control.revoke`. Raises :class:`~stem_kombu.errors.StemError` when the revocation
        could not be stored; the workers that are up have heard it all the same."""
        problem: StemError | None = None
        try:
            self._store_revocations([task_id] if isinstance(task_id, str) else list(task_id or ()), bool(terminate))
        except StemError as error:
            problem = error
        answer = super().revoke(task_id, destination, terminate, *args, **kwargs)  # type: ignore[misc]
        if problem is not None:
            raise problem
        return answer

    def _store_revocations(self, task_ids: list[str], terminate: bool) -> None:
        # Made when first needed: nearly every program that sends tasks never revokes one.
        namespace, store, keyring = self._stem_store
        who = default_requester()
        drafts = [RevocationDraft(str(one), terminate, THROUGH_CELERY, who, None) for one in task_ids]
        if keyring is not None:
            drafts = signed_drafts(drafts, keyring, namespace=namespace, now=store.now())
        store.save(namespace, drafts)

    @functools.cached_property
    def _stem_store(self) -> tuple[str, RevokeStore, Keyring | None]:
        settings = settings_of(self.app, **getattr(self.app, "stem_options", {}))
        place, keyring = settings.revoke_store, open_keyring(settings.signing)
        return settings.namespace, open_revoke_store(place.value, name=place.name, tls=settings.tls), keyring


class DurableControl(DurableRevokes, Control):  # type: ignore[misc]  # Celery publishes no types
    """Celery's own, with durable revokes."""


def durable(control: Any) -> type:
    """That class of a ``Control``, or its name, with durable revokes."""
    base: type = symbol_by_name(control)
    return base if issubclass(base, DurableRevokes) else type(base.__name__, (DurableRevokes, base), {})
