"""Django under gunicorn: tasks are sent once the transaction is committed, and a worker runs beside it.

gunicorn examples.in_django:application
stem worker start -A examples.in_django:stem

A project has its own settings, models and management commands; here all of it is one file.
"""

from __future__ import annotations

import os
from functools import partial

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from stem_kombu import Stem

if not settings.configured:
    settings.configure(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["127.0.0.1"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["SHOP_DATABASE"]}},
        STEM_NAMESPACE="shop",  # STEM_BROKER, STEM_BACKEND …: what is not here comes from the environment
    )
    django.setup()

stem = Stem("shop", settings=settings)


@stem.on_task_start
@stem.on_task_end
def tidy() -> None:
    """Outside of requests nothing else closes a connection that the database has dropped."""
    close_old_connections()


class Order(models.Model):
    paid = models.BooleanField(default=False)

    class Meta:
        app_label = "shop"


@stem.task("orders.pay")
def pay(number: int) -> str:
    changed = Order.objects.filter(pk=number).update(paid=True)
    return f"order {number}: {changed} row"


def order(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        new = Order.objects.create()
        # Not before: the worker would look for a row that is not there yet.
        sent: list[str] = []
        transaction.on_commit(lambda: sent.append(pay.delay(new.pk).id))
    return HttpResponse(sent[0])


def cancelled(request: HttpRequest) -> HttpResponse:
    try:
        with transaction.atomic():
            transaction.on_commit(partial(pay.delay, Order.objects.create().pk))
            raise ValueError("out of stock")
    except ValueError as error:
        return HttpResponse(f"nothing was sent: {error}")


urlpatterns = [path("order", order), path("cancelled", cancelled)]
application = get_wsgi_application()
