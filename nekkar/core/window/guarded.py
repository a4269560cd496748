"""Turns where some places are kept: those of calls under several limits, which also wait for another limit.

Rules (numbered as in docs/concepts/together.md):

23. Kept. The turn of a kept place is the slot that it would have, but not before it is ready. It is not passed over:
    a place behind it goes before it only where that leaves its turn where it was. So others use all the room that comes
    before, and the last of it, before the place is ready, waits for it.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar


class Turn(Protocol):
    """What wants a turn: from ``ready`` on, and without being passed over where ``is_kept``."""

    @property
    def ready(self) -> int: ...
    @property
    def is_kept(self) -> bool: ...


T = TypeVar("T", bound=Turn)


def next_guarded(
    entries: Iterable[T], slot_of: Callable[[T], int], slot_behind: Callable[[T, int, T], int]
) -> tuple[T, int]:
    """Return the entry whose turn comes next, and its slot.

    ``slot_of`` gives the slot that an entry would have; ``slot_behind`` the one that its last argument would have, were
    the first one booked at that instant.
    """
    best: tuple[T, int] | None = None
    guarded: list[tuple[T, int]] = []
    for entry in entries:
        at = slot_of(entry)
        slot = max(at, entry.ready)
        if best is None or (
            slot < best[1] and all(slot < turn and slot_behind(entry, slot, other) <= turn for other, turn in guarded)
        ):
            best = entry, slot
        if entry.is_kept or entry.ready <= at:
            guarded.append((entry, slot))
    assert best is not None
    return best
