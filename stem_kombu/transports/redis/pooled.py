"""A connection of redis-py's pool, from every release of it that is supported."""

from __future__ import annotations

import inspect
from typing import Any


def pooled_connection(pool: Any) -> Any:
    """A connection that the caller gives back with ``pool.release()``. Raises what the driver raises."""
    # redis-py before 5.3 wants the name of a command, of which it makes no use; a later one warns of any name.
    wanted = inspect.signature(pool.get_connection).parameters.get("command_name")
    named = wanted is not None and wanted.default is inspect.Parameter.empty
    return pool.get_connection("_") if named else pool.get_connection()
