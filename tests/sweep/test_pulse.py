"""Whether a server that has died is noticed, on real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cmkd.errors import InfrastructureError
from cmkd.sweep.pulse import PERIOD_SECONDS, Pulse


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=8) as listening:
        yield listening


def test_a_server_that_died_is_named(server: socket.socket) -> None:
    now = [0.0]
    pulse = Pulse({"raylet": server.getsockname()}, clock=lambda: now[0])
    pulse.check()
    server.close()
    pulse.check()
    now[0] = PERIOD_SECONDS
    with pytest.raises(InfrastructureError, match="Ray's raylet has died"):
        pulse.check()
    with pytest.raises(InfrastructureError):
        pulse.check()
