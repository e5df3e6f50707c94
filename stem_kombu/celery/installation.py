"""``install(app)``: the one line. Names what workers and revokes will need, so that a program that only sends tasks
imports none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import signals

from stem_kombu import transport_alias

if TYPE_CHECKING:
    from celery import Celery

_STEP, _CONSUMER_STEP = "stem_kombu.celery.step:StemStep", "stem_kombu.celery.consumer_step:ConsumerStep"
_CONTROL, _CELERYS_CONTROL = "stem_kombu.celery.control:DurableControl", "celery.app.control:Control"
_AMQP, _CELERYS_AMQP = "stem_kombu.celery.sending:StampedAMQP", "celery.app.amqp:AMQP"


def install(app: Any, **given: object) -> Any:
    """Give this Celery application Stem's control plane; returns the application. May be called twice.

    Its workers hydrate, listen and let their tasks be stopped; its ``app.control.revoke()`` stores before it broadcasts; what it
    sends carries the time of sending.
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
    _stamp(app)
    signals.worker_process_init.connect(_joined, weak=False, dispatch_uid="stem-kombu")
    return app


def _stamp(app: Celery) -> None:
    if app.amqp_cls == _CELERYS_AMQP:
        app.amqp_cls = _AMQP
    elif app.amqp_cls != _AMQP:
        from stem_kombu.celery.sending import stamped

        app.amqp_cls = stamped(app.amqp_cls)
    made = app.__dict__.get("amqp")
    if made is not None:
        from stem_kombu.celery.sending import stamp_by

        stamp_by(made)


def _joined(sender: Celery | None = None, **_: object) -> None:
    from stem_kombu.celery.step import join_spawned

    join_spawned(sender)
