"""Lines in a forked child: each holds copies of its parent's callers, whose slots and threads are the parent's.

The child has lines of its own for its calls. Where it goes on with a copy of a call that waits (a task of its parent's
event loop), that raises an error, and gives no slot back: the parent's caller starts on it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Protocol
from weakref import WeakValueDictionary


class Abandoned(Protocol):
    """A line. ``abandon``: have the copies of the parent's callers raise an error; the parent's own go on."""

    def abandon(self) -> None: ...


_lines: WeakValueDictionary[int, Abandoned] = WeakValueDictionary()


def abandon_in_children(line: Abandoned) -> None:
    """Call ``line.abandon()`` in every child that is forked from now on."""
    _lines[id(line)] = line


def _abandon_all() -> None:
    for known in _lines.valuerefs():
        line = known()
        if line:
            with suppress(RuntimeError):  # from an event loop that can't be woken from here
                line.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
