"""Whether a server that has died is noticed, on real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cmkd.errors import InfrastructureError
from cmkd.sweep.cluster import PERIOD_SECONDS, HealthCheck


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=8) as listening:
        yield listening


def test_a_server_that_died_is_named(server: socket.socket) -> None:
    now = [0.0]
    health = HealthCheck({"raylet": server.getsockname()}, clock=lambda: now[0])
    health.check()
    server.close()
    health.check()
    now[0] = PERIOD_SECONDS
    with pytest.raises(InfrastructureError, match="Ray's raylet has died"):
        health.check()
    with pytest.raises(InfrastructureError):
        health.check()


def test_a_machine_that_is_silent_counts_as_dead_only_after_a_while(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    health = HealthCheck({"GCS": server.getsockname()}, clock=lambda: now[0], patience=30.0)
    health.check()

    def cut_off(*_: object, **__: object) -> None:
        raise OSError(113, "No route to host")

    monkeypatch.setattr(socket, "create_connection", cut_off)
    now[0] = 20.0
    health.check()
    now[0] = 31.0
    with pytest.raises(InfrastructureError, match=r"GCS at 127\.0\.0\.1:\d+ has not answered for"):
        health.check()
