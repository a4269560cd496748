"""What a fleet has around it while it is tried: nothing, a machine busy with other things, a cache far away."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.integration.proxy import proxy
from tests.support.servers import Memcached

Surroundings = Callable[[Memcached], AbstractContextManager[str]]  # gives the URL by which the fleet finds its cache

BURN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
LONGEST = 0.9  # s; past a second a client gives an answer up


@contextmanager
def nothing_else(server: Memcached) -> Iterator[str]:
    """Leave the fleet alone with its server."""
    yield server.url


def busy_machine(processes: int) -> Surroundings:
    """Run so many processes that do nothing but compute."""

    @contextmanager
    def around(server: Memcached) -> Iterator[str]:
        burners = [subprocess.Popen([sys.executable, "-ISc", BURN]) for _ in range(processes)]
        try:
            yield server.url
        finally:
            for burner in burners:
                burner.kill()
            for burner in burners:
                burner.wait()

    return around


def slow_cache(seconds: float) -> Surroundings:
    """Put a cache's answers off by so much on average, with jitter as large, and a heavy tail."""

    def late(client: socket.socket, answer: bytes) -> None:
        time.sleep(min(seconds * (0.4 + 0.2 * random.paretovariate(1.5)), LONGEST))
        client.sendall(answer)

    @contextmanager
    def around(server: Memcached) -> Iterator[str]:
        with proxy(server.port) as wire:
            wire.fault = late
            yield f"memcached://127.0.0.1:{wire.port}"

    return around
