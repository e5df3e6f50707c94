"""The version of this package, as workers, heartbeats and monitors tell it."""

from __future__ import annotations

__version__ = "0.1.0"
