"""Locks that outlive a fork: a child has one thread, and no other is there to let go of what it held.

Whoever forks takes them first, so that the child never finds one taken, nor what it guards half changed. A signal
handler or a finaliser may come to a lock that its own thread holds: so the lock is re-entrant, and what it guards must
be right between any two calls under it.
"""

from __future__ import annotations

import os
import threading


def lock_over_forks() -> threading.RLock:
    """Return a lock for a module, which is held over every fork from now on."""
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
