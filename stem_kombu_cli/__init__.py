"""The ``stem`` command: a thin layer over :mod:`stem_kombu`."""
