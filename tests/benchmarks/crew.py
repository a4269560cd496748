"""A crew: processes and threads that call as fast as they are admitted, in a program of their own.

``python -m tests.benchmarks.crew`` reads its orders from standard input, imports one contender, forks the
workers, lets them begin together, and prints what each did. Apart from the suite, so that its own threads
are not forked, and the contender is imported once. Another kind of crew brings its own work (``muster``).
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

from tests.benchmarks.limiters import BY_NAME, Servers, Terms


@dataclass(frozen=True, slots=True)
class Orders:
    """``processes`` of ``threads`` each call for ``seconds``; ``starts``: whether they tell when each call began."""

    contender: str
    servers: Servers
    terms: Terms
    processes: int
    threads: int
    seconds: float
    starts: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """What one worker did: ``calls`` in ``seconds``, ``cpu`` seconds, their ``waits`` (µs), ``starts`` (Unix µs)."""

    calls: int
    seconds: float
    cpu: float
    waits: list[int]
    starts: list[int]


def crew(orders: Orders) -> list[Record]:
    """Run a crew in a program of its own."""
    return [Record(**record) for record in told_by("tests.benchmarks.crew", orders)]


def told_by(module: str, orders: Orders) -> list[Any]:
    """Run a module as a program, with orders; return what its workers told."""
    program = [sys.executable, "-m", module]
    limit = 60 + 4 * orders.seconds
    done = subprocess.run(
        program, input=json.dumps(asdict(orders)), capture_output=True, text=True, timeout=limit, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{orders.contender}: its crew failed:\n{done.stderr[-2000:]}")
    told: list[Any] = json.loads(done.stdout)
    return told


def main() -> None:
    """Do what standard input orders."""
    orders = ordered()
    BY_NAME[orders.contender].make(orders.servers, orders.terms)  # imported, its tables made, before the fork
    muster(orders, _work)


def ordered() -> Orders:
    """Return the orders on standard input."""
    given = json.loads(sys.stdin.read())
    return Orders(**{**given, "servers": Servers(**given["servers"]), "terms": Terms(**given["terms"])})


def muster(orders: Orders, work: Callable[[Orders, Any, Connection], None]) -> None:
    """Fork the workers, each with a barrier to begin together and a pipe to tell what it did; print that."""
    fork = multiprocessing.get_context("fork")
    together = fork.Barrier(orders.processes)
    pipes = [fork.Pipe(duplex=False) for _ in range(orders.processes)]
    workers = [fork.Process(target=work, args=(orders, together, end), daemon=True) for _, end in pipes]
    for worker in workers:
        worker.start()
    print(json.dumps([end.recv() for end, _ in pipes]))
    for worker in workers:
        worker.join()


def _work(orders: Orders, together: Any, told: Connection) -> None:
    admit = BY_NAME[orders.contender].make(orders.servers, orders.terms)
    notes: list[tuple[list[int], list[int]]] = [([], []) for _ in range(orders.threads)]
    together.wait()
    cpu, begin = time.process_time(), time.time_ns()
    end = begin + round(orders.seconds * 1e9)
    threads = [threading.Thread(target=_call, args=(admit, end, *note), daemon=True) for note in notes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(orders.seconds + 10)  # one that starves is left behind
    spent, took = time.process_time() - cpu, (time.time_ns() - begin) / 1e9
    starts = [start // 1000 for note in notes for start in note[0]]
    waits = [wait // 1000 for note in notes for wait in note[1]]
    step = max(1, len(waits) // 20_000)
    told.send(asdict(Record(len(starts), took, spent, waits[::step], starts if orders.starts else [])))


def _call(admit: Callable[[], Any], end: int, starts: list[int], waits: list[int]) -> None:
    asked = time.time_ns()
    while asked < end:
        admit()
        now = time.time_ns()
        starts.append(now)
        waits.append(now - asked)
        asked = now


if __name__ == "__main__":
    main()
