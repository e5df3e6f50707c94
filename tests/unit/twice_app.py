"""The application of the modules that test_mistakes_in_python.py writes."""

from __future__ import annotations

from stem_kombu import Stem

app = Stem("shop", broker="memory://")
