"""Locks that outlive a fork: a child has one thread, and no other is there to let go of what it held.

Whoever forks takes them first, so that the child never finds one taken, nor what it guards half changed.
"""

from __future__ import annotations

import os
import threading


def lock_over_forks() -> threading.Lock:
    """Return a lock for a module, which is held over every fork from now on."""
    lock = threading.Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
