"""Celery's words that Stem does not have: what an application that comes from Celery writes in their place."""

from __future__ import annotations

_NO_CANVAS = "Stem has no canvas: send the next task from the handler"
_OWN_STATES = "leave it out: states are recorded wherever the application has a backend"

#: Options of ``@app.task`` and of a call.
OPTIONS = {
    "name": "the name comes first: @app.task('shop.resize')",
    "bind": "leave it out, and call the first parameter ctx: it is the task's context",
    "base": "use the application's hooks: @app.on_task_start and @app.on_task_end",
    "autoretry_for": "leave it out: whatever the handler raises is tried again, max_retries= times",
    "retry_kwargs": "give max_retries=",
    "default_retry_delay": "give retry_backoff=: seconds before the first retry, twice as long before each further one",
    "rate_limit": "limit it on the workers: stem worker rate-limit --name TASK 5/s",
    "acks_late": "leave it out: a message is acknowledged once its outcome is recorded",
    "reject_on_worker_lost": "leave it out: the tasks of a killed worker run again",
    "ignore_result": _OWN_STATES,
    "track_started": _OWN_STATES,
    "link": _NO_CANVAS,
    "link_error": _NO_CANVAS,
    "chain": _NO_CANVAS,
    "producer": "give connection=",
}
#: Attributes of a task.
ATTRIBUTES = {
    "s": _NO_CANVAS,
    "si": _NO_CANVAS,
    "signature": _NO_CANVAS,
    "map": "send_many([(1,), (2,)]) sends a task for each call",
    "apply": "call it as a function, or within app.eager()",
    "run": "call it as a function",
    "retry": "raise ctx.retry(countdown=30) in the handler",
    "request": "the handler's ctx has task_id, attempt, queue and headers",
    "update_state": "report ctx.progress(0.5) in the handler",
    "AsyncResult": "app.result(id)",
}
