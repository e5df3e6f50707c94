"""The log levels of this process, where an operator asked for others for a while: of a Celery worker, or of a child of it."""

from __future__ import annotations

from collections.abc import Mapping

from stem_kombu.celery.shared_stop_table import SharedStopTable
from stem_kombu.logs import LogLevels


class ProcessLevels:
    """One for each process; a child that is forked goes on with what its worker had."""

    def __init__(self) -> None:
        self._logs = LogLevels()
        self._seen = 0

    def set(self, levels: Mapping[str, str], count: int) -> None:
        """Log from these levels on; ``count`` is that of the table from which they come."""
        self._seen = count
        self._logs.set(levels)

    def look(self, table: SharedStopTable) -> None:
        """Log from the levels on that the table has now. Costs a comparison while they stay the same."""
        if table.words[2] != self._seen and (found := table.levels()) is not None:
            self.set(*found)


#: This process's.
here = ProcessLevels()
