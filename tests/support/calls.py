"""What work costs, counted: a count of calls is the same on a busy machine as on a quiet one."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import process_time
from types import FrameType
from typing import Any

TRIES = 5


class Calls:
    """The functions called so far, of Python and of C; ``of_python``: those of Python alone."""

    def __init__(self) -> None:
        self.number = self.of_python = 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Count an event of ``sys.setprofile``."""
        self.number += event in ("call", "c_call")
        self.of_python += event == "call"


@contextmanager
def counted() -> Iterator[Calls]:
    """Count the functions that this thread calls inside the block.

    Warm up first, or take the least of some: what is made once, or for several calls ahead, is counted too.
    """
    made = Calls()
    gc.disable()  # finalisers are calls
    sys.setprofile(made)
    try:
        yield made
    finally:
        sys.setprofile(None)
        gc.enable()


def calls(work: Callable[[], object]) -> int:
    """Return how many functions ``work`` calls."""
    with counted() as made:
        work()
    return made.number


def takes_at_most(times: float, much: Callable[[], object], little: Callable[[], object]) -> bool:
    """Whether ``much`` takes at most so many times the time of ``little``, in one of some tries.

    For work in C, whose steps can't be counted. Give a bound ten times above what is right: no machine is ten times
    slower in each try, for one of the two alone.
    """
    return any(_seconds(much) <= times * _seconds(little) for _ in range(TRIES))


def is_proportional(work: Callable[[int], Callable[[], object]], small: int, large: int) -> bool:
    """Whether ``work(large)()`` takes the time that its size explains, give or take a factor of ten.

    The sizes are a hundred times apart, so what is quadratic takes a hundred times too long.
    """
    assert large >= 100 * small
    return takes_at_most(10 * large / small, work(large), work(small))


def _seconds(work: Callable[[], object]) -> float:
    """Return this process's own time, which other programs on the machine don't lengthen."""
    gc.disable()
    began = process_time()
    work()
    spent = process_time() - began
    gc.enable()
    return max(spent, 1e-6)
