"""Imported by billiard's fork server, first of all, and by nothing else: a signal to the group would end that process.

With it, a worker that drains could start no child any more but by ``spawn``, and a traceback would stand in the terminal.
"""

from __future__ import annotations

from stem_kombu.execution.signals import leave_signals_to_the_worker

leave_signals_to_the_worker()
