"""Child processes that last as long as a block, and no longer.

- Each has a pipe to its parent. A pipe has one writer at each end, so a child killed while it writes blocks
  nobody, and a child that dies is seen at once: its pipe ends.
- A child whose parent was killed ends too: its pipe ends (test_a_server_whose_parent_is_gone_ends).
- An interrupt from the keyboard goes to the parent alone, which ends its children: no traceback from
  each (test_an_interrupt_ends_everything).
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from nekkar.core.errors import NekkarError, plain

PATIENCE = 5.0

_spawn = multiprocessing.get_context("spawn")


class ChildFailed(NekkarError):
    """A child process ended, or hung, before it did its part."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running process, and this end of the pipe to it."""

    process: BaseProcess
    pipe: Connection

    def receive(self, timeout: float) -> Any:
        """Wait for the child's next message, at most ``timeout`` seconds; ChildFailed where none comes."""
        if not self.pipe.poll(timeout):
            raise ChildFailed(f"the {self.process.name} did not answer within {plain(timeout)} s")
        try:
            return self.pipe.recv()
        except (EOFError, OSError) as cause:
            raise ChildFailed(f"the {self.process.name} {self.death()}") from cause

    def death(self) -> str:
        """Say how a child whose pipe has ended died."""
        self.process.join(PATIENCE)
        return f"died, exit code {self.process.exitcode}"


@contextmanager
def child(name: str, target: Callable[..., None], *args: Any) -> Iterator[Child]:
    """Run ``target(pipe, *args)`` in a process of its own for the block; afterwards it is gone."""
    here, there = _spawn.Pipe()
    process = _spawn.Process(name=name, target=target, args=(there, *args), daemon=True)
    try:
        with _interrupts_held():
            process.start()
        there.close()
        yield Child(process, here)
    finally:
        here.close()
        there.close()
        _end(process)


def _end(process: BaseProcess) -> None:
    if process.pid is None:
        return
    process.terminate()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join(PATIENCE)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold SIGINT back for the block; a process started in it inherits that, and never sees one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # otherwise the first start runs it, and lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
