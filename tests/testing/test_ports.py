"""Ports for servers that tests stop and start: nobody else has them, and a node of a Redis Cluster needs two."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from stem_kombu.testing import ports
from stem_kombu.testing.ports import free_port


def test_a_port_is_handed_out_once() -> None:
    given = [free_port() for _ in range(50)]
    assert len(set(given)) == 50


@pytest.mark.parametrize("taken", [0, 1])
def test_a_port_is_given_only_with_the_one_that_lies_beside_it(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    first, second = free_port(beside=1), free_port(beside=1)
    offered = iter([first, second])
    monkeypatch.setattr(ports, "_handed_out", set())
    monkeypatch.setattr(ports, "_random", SimpleNamespace(randrange=lambda *_: next(offered)))
    with socket.create_server(("127.0.0.1", first + taken)):
        assert free_port(beside=1) == second


def test_neither_port_lies_where_the_kernel_takes_the_ports_of_outgoing_connections() -> None:
    for _ in range(200):
        assert free_port(beside=10_000) + 10_000 < ports._highest()
