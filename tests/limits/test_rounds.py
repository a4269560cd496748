"""Rounds: each key comes up again, whatever a finaliser adds or drops meanwhile."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any
from unittest.mock import patch

from tests.support.internals.core import Rounds, rounds


def test_keys_come_up_in_order_each_after_its_time() -> None:
    """The oldest first, a bounded number of them; then it tells when the next one comes up."""
    due = Rounds(10.0)
    for number in range(40):
        due.add(number, number)
    assert due.next_at == 10
    assert due.up(12) == [0, 1, 2]
    assert due.next_at == 13
    assert due.up(100) == list(range(3, 35))
    assert due.up(100) == list(range(35, 40))
    assert due.next_at == math.inf


def test_a_finaliser_that_adds_a_key_while_the_keys_are_looked_at() -> None:
    """The collector may run one as the iterator over the keys is made: it looks again."""
    due, runs = Rounds(10.0), list[str]()
    due.add("a", 0)

    def interrupted(keys: Any, most: int) -> Iterator[Any]:
        iterator = iter(keys)
        if len(runs) in (0, 2):
            due.add(f"by a finaliser {len(runs)}", 5)
        runs.append("looked")
        return islice(iterator, most)

    with patch.object(rounds, "islice", interrupted):
        assert due.up(12) == ["a"]
    assert due.next_at == 15
    assert due.up(20) == ["by a finaliser 0", "by a finaliser 2"]
