"""A connection of redis-py's pool, from every release of it that is supported."""

from __future__ import annotations

import inspect
from typing import Any

#: By the class of a pool, whether it wants the name of a command: to find out takes longer than to get the connection.
_want_names: dict[type[object], bool] = {}


def pooled_connection(pool: Any) -> Any:
    """A connection that the caller gives back with ``pool.release()``. Raises what the driver raises."""
    kind = type(pool)
    if (named := _want_names.get(kind)) is None:
        # redis-py before 5.3 wants the name of a command, of which it makes no use; a later one warns of any name.
        wanted = inspect.signature(pool.get_connection).parameters.get("command_name")
        named = _want_names[kind] = wanted is not None and wanted.default is inspect.Parameter.empty
    return pool.get_connection("_") if named else pool.get_connection()
