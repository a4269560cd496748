"""The stage: a fleet, its memcached, and a script that is played on them while the fleet is kept at its size.

Rules:

- A worker that dies is replaced at once, so that the load stays; but never by one that would find the log
  gone before a survivor does: nobody can tell a loss from a first use (docs/concepts/faults.md). So a newcomer
  waits until the cache has a log, and the cache is emptied only once every worker has called.
- The first two workers are never killed: what grows with time grows in them.
- The stage sleeps 10 ms at a time. What its longest sleep took beyond that, the machine kept from everybody:
  its stall is the slack of all bounds in time.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

from nekkar.core.cache import MemcachedCache
from tests.integration.fleet import DOOM, Fleet
from tests.integration.scripts import Act, Deed
from tests.support.internals.shared import cache_key
from tests.support.internals.window import LimitState, decode
from tests.support.servers import Memcached

TICK = 0.01
VETERANS = 2


class Stage:
    """``done``: what was done, at which instant (µs since the epoch), to which worker (-1: to the server).

    ``ended_by_us``: workers that were killed. ``stall``: how late the stage itself was woken at worst, in seconds.
    ``undone``: how many deeds the fleet's time was too short for.
    ``weights``: memory (KiB) and open files of the veterans, at each tenth of the time.
    """

    def __init__(self, fleet: Fleet, server: Memcached, draw: Random) -> None:
        self.fleet, self.server, self.draw = fleet, server, draw
        self.done: list[tuple[Act, int, int]] = []
        self.ended_by_us: set[int] = set()
        self.stall = 0.0
        self.undone = 0
        self.weights: list[list[tuple[int, int]]] = []
        self._replaced: set[int] = set()
        self._frozen: list[int] = []

    def play(self, script: Iterable[Deed], tick: Callable[[float], None]) -> None:
        """Do what the script says, until the fleet's end; ``tick`` is told the seconds so far. Blocks."""
        pending = deque(script)
        try:
            while self.fleet.now() < self.fleet.plan.seconds:
                while pending and pending[0].at <= self.fleet.now() and self._may(pending[0].act):
                    self._do(pending.popleft().act)
                self._replace_the_dead()
                self._weigh()
                tick(self.fleet.now())
                self._sleep()
            self.undone = len(pending)
        finally:
            while self._frozen:
                self._do("thaw")

    def growth(self) -> tuple[int, int]:
        """Return by how much memory (KiB) and open files of a veteran grew at most, since a fifth of the time."""
        if len(self.weights) < 3:
            return 0, 0
        pairs = list(zip(self.weights[2], self.weights[-1], strict=True))
        return max(last[0] - first[0] for first, last in pairs), max(last[1] - first[1] for first, last in pairs)

    def states(self) -> list[LimitState]:
        """Return the states of the fleet's limits as the cache has them."""
        if self.server.process is None:
            return []
        cache = MemcachedCache("127.0.0.1", self.server.port)
        values = [cache.gets(cache_key(name))[0] for name in self.fleet.plan.names]
        return [decode(value) for value in values if value]

    def failed(self) -> list[str]:
        """Say which workers ended otherwise than they should."""
        codes = [(index, worker.exitcode) for index, worker in enumerate(self.fleet.workers)]
        return [f"worker {index} ended with {code}" for index, code in codes if code and index not in self.ended_by_us]

    def _sleep(self) -> None:
        before = time.monotonic()
        time.sleep(TICK)
        if self.fleet.now() > 0:
            self.stall = max(self.stall, time.monotonic() - before - TICK)

    def _do(self, act: Act) -> None:
        victim = -1
        if act in ("kill", "kill in a swap", "freeze"):
            victim = self.draw.choice(self._fit(act))
        elif act == "thaw":
            victim = self._frozen.pop(0)
        instant = self._instant()
        if act == "flush":
            assert self.server.ask("flush_all").strip() == "OK"
        elif act == "stop server":
            self.server.stop()
        elif act == "start server":
            self.server.start()
            instant = self._instant()
        else:
            self._strike(act, victim)
        self.done.append((act, instant, victim))

    def _strike(self, act: Act, victim: int) -> None:
        signals = {"kill": signal.SIGKILL, "kill in a swap": DOOM, "freeze": signal.SIGSTOP, "thaw": signal.SIGCONT}
        os.kill(self.fleet.workers[victim].pid or 0, signals[act])
        if act == "freeze":
            self._frozen.append(victim)
        elif act != "thaw":
            self.ended_by_us.add(victim)

    def _weigh(self) -> None:
        if len(self.weights) <= 10 * self.fleet.now() / self.fleet.plan.seconds < 10:
            self.weights.append([weight(worker.pid or 0) for worker in self.fleet.workers[:VETERANS]])

    def _replace_the_dead(self) -> None:
        dead = {index for index in self.ended_by_us - self._replaced if not self.fleet.workers[index].is_alive()}
        if dead and self.fleet.now() < self.fleet.plan.seconds and len(self.states()) == len(self.fleet.plan.names):
            self._replaced |= dead
            for _ in dead:
                self.fleet.hire()

    def _live(self) -> list[int]:
        workers = enumerate(self.fleet.workers)
        return [index for index, worker in workers if worker.is_alive() and index not in self.ended_by_us]

    def _fit(self, act: Act) -> list[int]:
        """Return whom to strike: none that is frozen, and but for a plain kill none that has not called yet."""
        return [
            index
            for index in self._live()
            if index not in self._frozen
            and (act == "kill" or self.fleet.has_called(index))
            and (act == "freeze" or index >= VETERANS)
        ]

    def _may(self, act: Act) -> bool:
        if act in ("flush", "stop server"):
            return all(self.fleet.has_called(index) for index in self._live())
        return act in ("thaw", "start server") or bool(self._fit(act))

    def _instant(self) -> int:
        return round((self.fleet.begin + self.fleet.now()) * 1e6)


def weight(pid: int) -> tuple[int, int]:
    """Return the memory (KiB) that a process holds, and how many files it has open; zeros where /proc can't tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]), len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, IndexError):
        return 0, 0
