"""Rules broken on purpose: a simulation that finds none of these faults proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

SEEDS = 60


class Fault(NamedTuple):
    """A rule broken on purpose: how, in which story it shows, and the first seed to try."""

    break_it: Callable[[], AbstractContextManager[object]]
    story: str
    seed: int

    def is_found(self, problems: Callable[[str, int], Sequence[object]]) -> bool:
        """Return whether its story shows it within some seeds; ``problems(story, seed)`` runs one schedule."""
        with self.break_it():
            return any(_shows(problems, self.story, self.seed + number) for number in range(SEEDS))


def _shows(problems: Callable[[str, int], Sequence[object]], story: str, seed: int) -> bool:
    try:
        return bool(problems(story, seed))
    except (AssertionError, IndexError, ValueError):  # what the broken rule left made no sense
        return True
