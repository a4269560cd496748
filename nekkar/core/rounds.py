"""Which of many keys to check again, so that dead ones are dropped soon, with little work for each call."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from itertools import islice
from typing import Any

MOST = 32


class Rounds:
    """Keys, each of which comes up again ``every`` units of time after it was added. Called under its owner's lock.

    ``next_at``: when the next one comes up; ``due``: the keys that are to come up. Both may be read without the lock.
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self.due: OrderedDict[Hashable, float] = OrderedDict()  # in order, since all wait for as long
        self.next_at = math.inf

    def add(self, key: Hashable, now: float) -> None:
        """Have ``key`` come up, if it is not to come up already."""
        self.due.setdefault(key, now + self._every)
        self.next_at = min(self.next_at, now + self._every)

    def up(self, now: float) -> list[Any]:
        """Return keys that have come up, ``MOST`` at most; the owner adds those again that it keeps.

        A finaliser or a signal handler may come here between any two of its steps.
        """
        found: list[Any] = []
        for key in self._oldest(MOST):
            if self.due.get(key, math.inf) > now:
                break
            if self.due.pop(key, None) is not None:
                found.append(key)
        self.next_at = min((self.due.get(key, now) for key in self._oldest(1)), default=math.inf)
        return found

    def _oldest(self, most: int) -> list[Hashable]:
        while True:
            with suppress(RuntimeError):  # a finaliser changed the dict after its iterator was made
                return list(islice(self.due, most))
