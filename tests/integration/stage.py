"""The stage: a fleet, its memcached, and a script that is played on them while the fleet is kept at its size.

Rules:

- A worker that dies is replaced at once, so that the load stays; but never by one that would find the log
  gone before a survivor does: nobody can tell a loss from a first use (README). So a newcomer waits until the
  cache has a log, and the cache is emptied only once every worker has called.
- The stage sleeps 10 ms at a time. What its longest sleep took beyond that, the machine kept from everybody:
  its stall is the slack of all bounds in time.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from random import Random

from nekkar.core.cache import MemcachedCache
from nekkar.core.codec import decode
from nekkar.core.ledger import cache_key
from nekkar.core.log import HitLog
from tests.integration.fleet import DOOM, Fleet
from tests.integration.scripts import Act, Deed
from tests.integration.servers import Memcached

TICK = 0.01
PATIENCE = 30.0


class Stage:
    """``done``: what was done, at which instant (µs since the epoch), to which worker (-1: to the server).

    ``ended_by_us``: workers that were killed. ``stall``: how late the stage itself was woken at worst, in seconds.
    """

    def __init__(self, fleet: Fleet, server: Memcached, draw: Random) -> None:
        self.fleet, self.server, self.draw = fleet, server, draw
        self.done: list[tuple[Act, int, int]] = []
        self.ended_by_us: set[int] = set()
        self.stall = 0.0
        self._replaced: set[int] = set()
        self._frozen: list[int] = []

    def play(self, script: Iterable[Deed], tick: Callable[[float], None]) -> None:
        """Do what the script says, until the fleet's end; ``tick`` is told the seconds so far. Blocks."""
        try:
            for deed in script:
                self._wait(lambda at=deed.at: self.fleet.now() >= at, tick)  # type: ignore[misc]
                self._wait(lambda act=deed.act: self._may(act), tick)  # type: ignore[misc]
                self._do(deed.act)
            self._wait(lambda: self.fleet.now() >= self.fleet.plan.seconds, tick)
        finally:
            while self._frozen:
                self._do("thaw")

    def log(self) -> HitLog | None:
        """Return the fleet's log as the cache has it."""
        if self.server.process is None:
            return None
        raw, _ = MemcachedCache("127.0.0.1", self.server.port).gets(cache_key(self.fleet.plan.name))
        return decode(raw) if raw else None

    def failed(self) -> list[str]:
        """Say which workers ended otherwise than they should."""
        codes = [(index, worker.exitcode) for index, worker in enumerate(self.fleet.workers)]
        return [f"worker {index} ended with {code}" for index, code in codes if code and index not in self.ended_by_us]

    def _wait(self, reached: Callable[[], bool], tick: Callable[[float], None]) -> None:
        deadline = time.monotonic() + PATIENCE + self.fleet.plan.seconds
        while not reached():
            assert time.monotonic() < deadline, "the fleet does not get there"
            self._replace_the_dead()
            tick(self.fleet.now())
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

    def _replace_the_dead(self) -> None:
        dead = {index for index in self.ended_by_us - self._replaced if not self.fleet.workers[index].is_alive()}
        if dead and self.fleet.now() < self.fleet.plan.seconds and self.log():
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
            if index not in self._frozen and (act == "kill" or self.fleet.has_called(index))
        ]

    def _may(self, act: Act) -> bool:
        if act in ("flush", "stop server"):
            return all(self.fleet.has_called(index) for index in self._live())
        return act in ("thaw", "start server") or bool(self._fit(act))

    def _instant(self) -> int:
        return round((self.fleet.begin + self.fleet.now()) * 1e6)
