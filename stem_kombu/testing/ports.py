"""Loopback ports for servers that tests stop and start again."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 15_000
_handed_out: set[int] = set()
#: Of the system, because tests seed the usual one, and two processes that test side by side would go through the same ports.
_random = random.SystemRandom()


def free_port(host: str = "127.0.0.1", *, beside: int = 0) -> int:
    """A port of ``host`` that nobody listens on, and that this process has not handed out before.

    ``beside``: the port that lies so many above it is free in the same sense and is handed out with it. A node of a
    Redis Cluster takes the one 10,000 above its own.

    It lies outside of the range from which the kernel picks the local ports of outgoing connections. Otherwise a client
    that keeps trying a stopped server could be given that very port as its own and end up connected to itself, and the
    server could not come back.
    """
    for _ in range(1000):
        port = _random.randrange(_LOWEST, _highest() - beside)
        wanted = {port, port + beside}
        if not wanted & _handed_out and all(_is_free(host, each) for each in wanted):
            _handed_out.update(wanted)
            return port
    raise OSError(f"no free port between {_LOWEST} and {_highest() - beside} on {host}")


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _highest() -> int:
    try:
        first = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):  # not Linux: 49152 is where the registered ports end
        first = 49_152
    return first if first > _LOWEST + 1000 else 65_536
