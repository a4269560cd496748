"""Real servers on this machine: memcached and Redis on free ports, started and stopped by pid."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

PATIENCE_S = 10  # the timeout in the URLs: that a busy machine answers late is no outage


def free_port() -> int:
    """Return a TCP port that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def tcp_server(serve: Callable[[socket.socket, int, threading.Event], None]) -> Iterator[int]:
    """Serve each connection, numbered from 0, in a daemon thread; yield the port. The event is set at the end."""
    stop, numbers = threading.Event(), count()

    def accept() -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.settimeout(60)
                threading.Thread(target=serve, args=(connection, next(numbers), stop), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.02)
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            stop.set()
            acceptor.join()


@dataclass
class Memcached:
    """A memcached server that can be killed and started again on its port."""

    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    options: tuple[str, ...] = ()

    def start(self) -> None:
        command = ["memcached", "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", *self.options]
        command += ["-u", "root"] if os.geteuid() == 0 else []
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _until(lambda: bool(self.stats()))

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
        return f"memcached://127.0.0.1:{self.port}?timeout={PATIENCE_S}"


@dataclass
class RedisServer:
    """A redis-server that can be killed and started again on its port; what it saves stays in ``folder``."""

    folder: str
    options: tuple[str, ...] = ("--save", "")
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers and has loaded what it saved."""
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", self.folder]
        self.process = subprocess.Popen([*command, *self.options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _until(lambda: not self.ask("PING").startswith("-LOADING"))

    def stop(self) -> None:
        """Kill it with -9."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def forget(self) -> None:
        """Remove what it saved: the next start finds nothing."""
        Path(self.folder, "dump.rdb").unlink(missing_ok=True)

    def ask(self, command: str) -> str:
        """Send one command on a connection of its own; return the answer as it came, without its end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command.encode() + b"\r\nQUIT\r\n")
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        return answer.decode(errors="replace").removesuffix("+OK\r\n").strip()

    def commands(self) -> int:
        """Return how many commands on keys were served so far, not counting those inside scripts."""
        lines = (line.split(":calls=") for line in self.ask("INFO commandstats").splitlines() if ":calls=" in line)
        calls = {name.removeprefix("cmdstat_"): int(rest.partition(",")[0]) for name, rest in lines}
        return calls.get("eval", 0)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0?timeout={PATIENCE_S}"


def _until(answers: Callable[[], bool]) -> None:
    """Return once a server that was started answers; raise why it does not after a long time."""
    deadline = time.monotonic() + 30
    while True:
        try:
            if answers():
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """Run a redis-server for a while; without one installed, skip, or fail where CI is set."""
    _need("redis-server")
    with tempfile.TemporaryDirectory(prefix="nekkar-redis-") as folder:
        server = RedisServer(folder, options or ("--save", ""))
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _need(program: str) -> None:
    if shutil.which(program) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is not installed")
        pytest.skip(f"{program} is not installed")


@contextmanager
def memcached(*options: str) -> Iterator[Memcached]:
    """Run a memcached for a while, with more options; without one installed, skip, or fail where CI is set."""
    _need("memcached")
    server = Memcached(options=options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
