"""``install(app)``: the one line. Names what workers and revokes will need, so that a program that only sends tasks
imports none of it."""

from __future__ import annotations

from typing import Any

from celery import signals

from stem_kombu import transport_alias

_STEP, _CONSUMER_STEP = "stem_kombu.celery.step:StemStep", "stem_kombu.celery.consumer_step:ConsumerStep"
_CONTROL, _CELERYS_CONTROL = "stem_kombu.celery.control:DurableControl", "celery.app.control:Control"


def install(app: Any, **given: Any) -> Any:
    """Give this Celery application Stem's control plane; returns the application. May be called twice.

    Its workers hydrate, listen and let their tasks be stopped; its ``app.control.revoke()`` stores before it broadcasts.
    Keywords are those of :func:`stem_kombu.celery.settings_of`: ``namespace=``, ``revoke_store=``, ``backend=`` …
    Nothing happens until a worker starts or a revoke is sent. A worker whose revocations can't be read ends at its start,
    with exit code 74 (2 for settings that can't mean anything): it would run what was revoked. Where nothing that could hold
    revocations is configured it starts, and says so (:mod:`stem_kombu.volatile`).
    """
    transport_alias.register()
    app.stem_options = given
    app.steps["worker"].add(_STEP)
    app.steps["consumer"].add(_CONSUMER_STEP)
    if app.control_cls == _CELERYS_CONTROL:
        app.control_cls = _CONTROL
    elif app.control_cls != _CONTROL:
        from stem_kombu.celery.control import durable

        app.control_cls = durable(app.control_cls)
    app.__dict__.pop("control", None)  # one that was made already is Celery's
    signals.worker_process_init.connect(_joined, weak=False, dispatch_uid="stem-kombu")
    return app


def _joined(sender: Any = None, **_: Any) -> None:
    from stem_kombu.celery.step import join_spawned

    join_spawned(sender)
