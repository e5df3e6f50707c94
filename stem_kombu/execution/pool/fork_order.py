"""What passes between a worker and the process that forks its children: an order for one child, and how that child fares.

The order goes over a socket in a folder of this user alone. What comes back goes over a pipe whose other end the child
alone holds: its id, at its end its exit status, and its end in any case.
"""

from __future__ import annotations

import os
import pickle
import socket
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from stem_kombu import machine
from stem_kombu.execution.child.setup import ChildSetup

#: Bytes of a number on the pipe.
_NUMBER = 8
#: Descriptors with an order: the pipe's end, and what the child is given.
_MOST_DESCRIPTORS = 8
#: What a child counts as having ended with that did not say so itself.
UNKNOWN_STATUS = 255


@dataclass(frozen=True, slots=True)
class ForkOrder:
    """``name`` of the process in log lines; ``folder`` it works in."""

    setup: ChildSetup
    name: str
    folder: str


class ForkedProcess:
    """The child as its worker sees it: what is used of ``billiard.Process``."""

    def __init__(self, pipe: int) -> None:
        """``pipe``: the end to read from, which is this object's from now on. Raises ``EOFError`` when nothing was forked."""
        self.sentinel = pipe
        weakref.finalize(self, os.close, pipe)
        pid = _number(pipe)
        if pid is None:
            raise EOFError("the process that forks children has ended")
        self.pid = pid
        self.exitcode: int | None = None

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end; :attr:`exitcode` tells whether it has come."""
        if self.exitcode is None and machine.is_readable(self.sentinel, timeout):
            status = _number(self.sentinel)
            self.exitcode = UNKNOWN_STATUS if status is None else status


def send_order(address: str, order: ForkOrder, descriptors: Sequence[int]) -> ForkedProcess:
    """The child that was forked, with copies of those descriptors. Raises ``OSError`` and ``EOFError``."""
    reader, writer = os.pipe()
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
            socket.send_fds(client, [b"\0"], [writer, *descriptors])
            client.sendall(pickle.dumps(order))
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return ForkedProcess(reader)


def receive_order(connection: socket.socket) -> tuple[ForkOrder, int, list[int]]:
    """In the child: the order, the pipe for :func:`tell`, and the descriptors that it is given. It closes the connection."""
    with connection:
        _, (pipe, *given), _, _ = socket.recv_fds(connection, 1, _MOST_DESCRIPTORS)
        for descriptor in (pipe, *given):
            os.set_inheritable(descriptor, False)
        tell(pipe, os.getpid())  # before anything that may fail
        order = pickle.loads(b"".join(iter(partial(connection.recv, 65_536), b"")))  # noqa: S301 - our own worker
    assert isinstance(order, ForkOrder)  # nothing else is sent there
    return order, pipe, given


def tell(pipe: int, number: int) -> None:
    """In the child: its id, then the status that it ends with."""
    os.write(pipe, number.to_bytes(_NUMBER, "little", signed=True))


def _number(pipe: int) -> int | None:
    found = os.read(pipe, _NUMBER)
    return int.from_bytes(found, "little", signed=True) if found else None
