"""The only source of chance in the library: jitter, and names that no other process draws. So that a seed can decide about all
of it, as :mod:`stem_kombu.clock` lets another clock decide about time. The names are Python's own.
"""

from __future__ import annotations

from random import random, uniform
from secrets import token_hex
from uuid import uuid4

__all__ = ["random", "token_hex", "uniform", "uuid4"]
