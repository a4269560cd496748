"""Locks that outlive a fork: a child has one thread, and no other one is left to release what it held.

The forking thread takes such a lock first, so that the child never finds it taken, nor what it guards half changed.
It waits for ``PATIENCE_S`` at most: a thread that holds the lock for longer is stuck, and must not stop the fork too.
"""

from __future__ import annotations

import os
import threading
from typing import Any

PATIENCE_S = 5.0


def lock_over_forks() -> threading.RLock:
    """Return a re-entrant lock for a module; the forking thread holds it over every fork from now on."""
    lock: Any = threading.RLock()

    def after_in_parent() -> None:
        if lock._is_owned():  # else it was waited for in vain
            lock.release()

    def after_in_child() -> None:
        if lock._is_owned():
            lock.release()
        else:  # its owner is not in this process
            lock._at_fork_reinit()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lambda: lock.acquire(timeout=PATIENCE_S),
            after_in_parent=after_in_parent,
            after_in_child=after_in_child,
        )
    return lock  # type: ignore[no-any-return]
