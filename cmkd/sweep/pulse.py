"""Whether the servers behind a running engine are still there."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Mapping

from cmkd.errors import InfrastructureError

PERIOD_SECONDS = 2.0


class Pulse:
    """Asks servers for a connection, now and then.

    Without it a client of Ray waits for ever for a raylet that was killed, and is ended from
    inside, with no word, a minute after the GCS was.

    Args:
        servers: (host, port) by name.
        patience: seconds without an answer after which a server counts as dead. On this machine
            one that is too busy to answer is not; another machine may be gone without a word.
    """

    def __init__(
        self,
        servers: Mapping[str, tuple[str, int]],
        clock: Callable[[], float] = time.monotonic,
        patience: float = math.inf,
    ) -> None:
        self._servers = servers
        self._clock = clock
        self._patience = patience
        self._next = clock()
        self._heard = dict.fromkeys(servers, self._next)

    def check(self) -> None:
        """Look again, unless that was just done.

        Raises:
            InfrastructureError: one of them takes no connection any more, or is silent too long.
        """
        if self._clock() < self._next:
            return
        for name, address in self._servers.items():
            try:
                socket.create_connection(address, timeout=PERIOD_SECONDS).close()
            except ConnectionRefusedError:
                raise InfrastructureError(
                    f"Ray's {name} has died, killed perhaps for want of memory"
                ) from None
            except OSError:
                if self._clock() - self._heard[name] > self._patience:
                    host, port = address
                    raise InfrastructureError(
                        f"Ray's {name} at {host}:{port} has not answered for {self._patience:.0f} s"
                    ) from None
            else:
                self._heard[name] = self._clock()
        self._next = self._clock() + PERIOD_SECONDS
