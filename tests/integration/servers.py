"""Real servers on this machine: memcached on a free port, started and stopped by pid."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest


def free_port() -> int:
    """Return a TCP port that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Memcached:
    """A memcached server that can be killed and started again on its port."""

    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    options: tuple[str, ...] = ()

    def start(self) -> None:
        command = ["memcached", "-l", "127.0.0.1", "-p", str(self.port), "-U", "0"]
        command += [*self.options, *(["-u", "root"] if os.geteuid() == 0 else [])]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.stats()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def ask(self, command: str) -> str:
        """Send one command on a connection of its own; return the answer up to its last line."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command.encode() + b"\r\n")
            answer = b""
            while not answer.endswith((b"END\r\n", b"OK\r\n", b"ERROR\r\n")):
                answer += connection.recv(65536)
        return answer.decode()

    def stats(self) -> dict[str, str]:
        lines = (line.split() for line in self.ask("stats").splitlines())
        return {words[1]: words[2] for words in lines if len(words) == 3}

    def commands(self) -> int:
        """Return how many commands on keys were served so far."""
        stats = self.stats()
        return sum(int(stats[name]) for name in ("cmd_get", "cmd_set", "cmd_touch", "cmd_meta"))

    @property
    def url(self) -> str:
        return f"memcached://127.0.0.1:{self.port}"


@contextmanager
def memcached(*options: str) -> Iterator[Memcached]:
    """Run a memcached for a while; without one installed, skip, or fail where CI is set."""
    if shutil.which("memcached") is None:
        if os.environ.get("CI"):
            pytest.fail("memcached is not installed")
        pytest.skip("memcached is not installed")
    server = Memcached(options=options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
