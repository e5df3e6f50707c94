"""Tasks that use Django's database, with the recipe of docs/children.md."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import close_old_connections, connection

from stem_kombu import Stem, TaskContext

_URL = urlsplit(os.environ["DJANGO_TEST_DATABASE"])
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": _URL.hostname,
            "PORT": _URL.port,
            "USER": _URL.username,
            "PASSWORD": _URL.password,
            "NAME": _URL.path.lstrip("/"),
            "CONN_MAX_AGE": 600,
            "CONN_HEALTH_CHECKS": True,
        }
    }
)
django.setup()

app = Stem("django-tests")


@app.on_task_start
@app.on_task_end
def tidy() -> None:
    close_old_connections()


@app.on_task_start
@app.on_task_end
async def tidy_async() -> None:
    await sync_to_async(close_old_connections)()


def ask() -> int:
    """The database's process that serves this thread."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (found,) = cursor.fetchone()
        return int(found)


@app.task("inline.ask")
def ask_in_a_thread(ctx: TaskContext) -> int:
    return ask()


@app.task("isolate.ask", isolate=True)
def ask_in_a_child(ctx: TaskContext) -> int:
    return ask()


@app.task("async.ask")
async def ask_in_the_loop(ctx: TaskContext) -> int:
    return int(await sync_to_async(ask)())
