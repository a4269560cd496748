"""So many tasks that wait, and what they take up: ``python -m tests.benchmarks.waiting KIND TASKS PORT``.

Memory is what the interpreter allocated (tracemalloc), a part of a task, from before the first to when all wait.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

from tests.benchmarks.limiters import Servers, aiolimiter, fresh, nekkar_async


async def main(kind: str, tasks: int, port: int) -> None:
    """Measure one kind of waiting."""
    wait = await _wait(kind, port)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    waiting = [asyncio.ensure_future(wait()) for _ in range(tasks)]
    await asyncio.sleep(1)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    assert not any(task.done() for task in waiting), "some did not wait"
    print(json.dumps({"bytes": held / tasks, "threads": threading.active_count()}), flush=True)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def _wait(kind: str, port: int) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Return what waits, and goes on waiting: the limit's only slot is taken."""
    if kind == "bare":
        return asyncio.Event().wait
    make = nekkar_async("memcached") if kind == "nekkar" else aiolimiter
    acquire = make(Servers(port, 0, ""), fresh(1, 3600.0))
    await acquire()
    return acquire


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
