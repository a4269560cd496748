"""Locks that are safe over a fork, and the one that the core's modules share.

A child process has only the thread that forked: a lock that another thread held would stay taken in it for ever. So the
forking thread takes these locks first, and the child finds them free, and the guarded data whole. It waits for a lock
for ``PATIENCE_S`` at most: a thread that holds it for longer is stuck, and must not stop the fork too.
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
        if lock._is_owned():  # not if the wait for it timed out
            lock.release()

    def after_in_child() -> None:
        if lock._is_owned():
            lock.release()
        else:  # its owner does not exist in this process
            lock._at_fork_reinit()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lambda: lock.acquire(timeout=PATIENCE_S),
            after_in_parent=after_in_parent,
            after_in_child=after_in_child,
        )
    return lock  # type: ignore[no-any-return]


# One lock for what the core's modules share. A signal handler or a finaliser may make a limited call while its thread
# holds it. With a lock for each module, two threads could each hold one and wait for the other's.
SHARED = lock_over_forks()
