"""Stem workers as Celery's monitors see them: its events, and the answers to its remote control. Celery is not imported."""
