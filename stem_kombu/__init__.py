"""Stem: a worker control plane for Kombu and Celery fleets."""

__version__ = "0.1.0"
