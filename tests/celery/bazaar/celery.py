"""The project's Celery application, with the one line."""

from __future__ import annotations

import os

from celery import Celery

from stem_kombu.celery import checkpoint, install
from stem_kombu.testing.gates import Gate

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.celery.bazaar.settings")

app = Celery("bazaar")
app.config_from_object("django.conf:settings", namespace="CELERY")
install(app)


@app.task(name="bazaar.works")
def works(gate: str) -> str:
    Gate(gate).reach()
    Gate(gate).wait_open(checkpoint=checkpoint)
    return "worked"
