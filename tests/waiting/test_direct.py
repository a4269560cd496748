"""A call that comes alone takes the direct way: one swap, and little work."""

from __future__ import annotations

from nekkar import Nekkar
from nekkar.testing import FakeClock
from tests.support.calls import counted

APART_S = 0.05


def test_a_call_that_comes_alone_makes_few_calls_of_python_functions() -> None:
    """The least of some: a look at what is old comes now and then."""
    clock = FakeClock()
    limit, made = Nekkar("memory:", clock=clock)("some_id", 1000), list[int]()
    for _ in range(10):
        clock.advance(APART_S)
        with counted() as calls:
            limit.acquire()
        made.append(calls.of_python)
    assert min(made) <= 104
