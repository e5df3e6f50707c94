"""How long a server may take for much at once: its time limit grows with the bytes that have to get there."""

from __future__ import annotations

#: Bytes from which on the size counts, and bytes a second that the slowest link is taken to carry.
LARGE, SLOWEST = 256 * 1024, 256 * 1024


def time_limit(seconds: float, size: int) -> float:
    """Seconds for an operation that sends ``size`` bytes and else may take ``seconds``."""
    return seconds if size < LARGE else seconds + size / SLOWEST
